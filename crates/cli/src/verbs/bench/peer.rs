//! Lattigo as a process that runs one row when asked.

use crate::verbs::bench::harness::{Sample, Times};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Where the peer's shared library is named if no option does.
const LIBRARY_VARIABLE: &str = "CIPHERFORM_LATTIGO";

/// Where the commands of the script's head comment leave it.
const LIBRARY: &str = "orion/orion/backend/lattigo/lattigo-linux.so";

const SCRIPT: &str = "benches/peers/lattigo.py";

/// The running script.
pub(crate) struct Peer {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What it said about itself.
    pub(crate) setup: Value,
}

/// The script, below the working directory or the source tree.
fn script() -> Result<PathBuf> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(SCRIPT);
    [PathBuf::from(SCRIPT), tree].into_iter().find(|path| path.is_file()).with_context(|| {
        format!("{SCRIPT} is neither in the working directory nor in the source tree")
    })
}

impl Peer {
    pub(crate) const NAME: &'static str = "Lattigo 6.2";

    /// The shared library: an option, an environment variable or the documented place.
    ///
    /// Without one: how to get it.
    pub(crate) fn library(option: Option<&Path>) -> Result<PathBuf> {
        let named = option.map(Path::to_owned);
        let named = named.or_else(|| std::env::var_os(LIBRARY_VARIABLE).map(PathBuf::from));
        let path = named.unwrap_or_else(|| PathBuf::from(LIBRARY));
        if path.is_file() {
            return Ok(path);
        }
        bail!(
            "no Lattigo at {}; get it with `pip download --no-deps orion-fhe && python3 -m zipfile -e orion_fhe-*.whl \
             orion`, or name its lattigo-linux.so with --peer-lib or {LIBRARY_VARIABLE}",
            path.display()
        )
    }

    /// Starts the script and waits until its keys are made: the leveled rows, or bootstrapping of the values in a file.
    pub(crate) fn start(library: &Path, threads: usize, bootstrap: Option<&Path>) -> Result<Self> {
        let mut command = Command::new("python3");
        command.arg(script()?).arg("--lib").arg(library.canonicalize()?);
        if let Some(inputs) = bootstrap {
            command.arg("--boot").arg("--inputs").arg(inputs);
        }
        command.env("GOMAXPROCS", threads.to_string());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start python3 for the peer")?;
        let (Some(ask), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the peer has no standard streams");
        };
        let mut peer = Self { child, ask, answers: BufReader::new(out), setup: Value::Null };
        peer.setup = peer.answer().context("the peer did not start")?;
        Ok(peer)
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the peer ended: its message is above");
        }
        serde_json::from_str(&line).with_context(|| format!("the peer said {line:?}"))
    }

    /// Whether it has a row of that name.
    pub(crate) fn has(&self, op: &str) -> bool {
        let rows = self.setup.get("rows").and_then(Value::as_array);
        rows.is_some_and(|rows| rows.iter().any(|row| row == op))
    }

    /// Runs a row once; everything that it says about it.
    pub(crate) fn ask(&mut self, op: &str) -> Result<Value> {
        writeln!(self.ask, "{op} 1")?;
        self.ask.flush()?;
        self.answer()
    }

    /// Runs a row once.
    pub(crate) fn run(&mut self, op: &str) -> Result<Sample> {
        let answer = self.ask(op)?;
        Self::sample(&answer)
    }

    /// The times in an answer.
    pub(crate) fn sample(answer: &Value) -> Result<Sample> {
        let first = |key: &str| answer.get(key).and_then(|times| times.get(0)?.as_f64());
        let (Some(wall), Some(cpu)) = (first("wall_ms"), first("cpu_ms")) else {
            bail!("the peer's answer has no times: {answer}");
        };
        Ok(Sample { wall, cpu, asked: None, launches: 0 })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It owns nothing worth an orderly end. If it ended by itself there is nothing to stop.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Eight hoisted rotations are not exported by the peer's library: this many times its rotation, the ratio of 1068 ms to
/// 247 ms that a build of our own of the same version measured on a machine with AVX-512 IFMA.
const HOISTED_8_IN_ROTATIONS: f64 = 1068.0 / 247.0;

/// What stands in for the peer's eight hoisted rotations, and how it is marked.
pub(crate) fn hoisted_stand_in(rotate: &Times) -> (Times, &'static str) {
    let scale = |times: &[f64]| times.iter().map(|t| t * HOISTED_8_IN_ROTATIONS).collect();
    let (wall, cpu) = (scale(&rotate.wall), scale(&rotate.cpu));
    let times = Times { wall, cpu, ..Times::default() };
    (times, "peer: 4.32 x its rotate, not measured")
}
