//! Two processes over `grpc://`: the bytes, rounds and result of TCP, another plan, keys that nothing would check.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod tiny;

use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use tiny::TINY;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cipherform"));
    command.args(["mpc"]).args(args);
    command
}

/// A server that listens on `at`, and the address that it says.
fn listening(at: &str, dealt: &str) -> (Child, String) {
    let args = ["run", "--role", "server", "--listen", at, "--correlations", dealt, "--insecure"];
    let args = [&args[..], &TINY, &["--deadline", "20"]].concat();
    let mut child = command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    // The pipe stays open with the child: what it prints next fits in it.
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    std::thread::spawn(move || said.lines().count());
    (child, line.trim().strip_prefix("listening on ").unwrap().to_owned())
}

fn client(peer: &str, dealt: &str, json: &Path, more: &[&str]) -> Output {
    let args = ["run", "--role", "client", "--peer", peer, "--correlations", dealt];
    let json = ["--json", json.to_str().unwrap(), "--deadline", "20"];
    command(&[&args[..], &TINY, &json, more].concat()).output().unwrap()
}

/// Bytes and rounds of each operator, which are also what the plan says.
fn counts(party: &Value) -> Vec<[Value; 3]> {
    assert_eq!(party["mismatches"].as_array().unwrap().len(), 0);
    let operators = party["operators"].as_array().unwrap();
    let row = |o: &Value| ["name", "layer", "counters"].map(|field| o[field].clone());
    operators.iter().map(row).collect()
}

#[test]
fn a_run_over_grpc_costs_what_it_costs_over_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let dealt = dir.path().join("dealt");
    let deal = ["deal", "--count", "3", "--out", dealt.to_str().unwrap()];
    assert!(command(&[&deal[..], &TINY].concat()).status().unwrap().success());
    let [for_server, for_client] =
        ["server", "client"].map(|half| dealt.join(half).to_str().unwrap().to_owned());
    let json = dir.path().join("run.json");
    let seen = ["127.0.0.1:0", "grpc://127.0.0.1:0"].map(|at| {
        let (server, address) = listening(at, &for_server);
        assert_eq!(address.starts_with("grpc://"), at.starts_with("grpc://"));
        let ran = client(&address, &for_client, &json, &["--insecure"]);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let served = server.wait_with_output().unwrap();
        assert!(served.status.success(), "{}", String::from_utf8_lossy(&served.stderr));
        let run: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        counts(&run["party"])
    });
    assert!(!seen[0].is_empty());
    assert_eq!(seen[0], seen[1]);

    let (server, address) = listening("grpc://127.0.0.1:0", &for_server);
    let other = client(&address, &for_client, &json, &["--insecure", "--eps", "0.25"]);
    assert_eq!(other.status.code(), Some(1));
    let error = server.wait_with_output().unwrap().stderr;
    let error = String::from_utf8_lossy(&error);
    assert!(error.contains("another plan"), "{error}");

    // Nothing over gRPC checks a key: one that is given is not passed over in silence.
    let identity = dir.path().join("client.id").to_str().unwrap().to_owned();
    let made = command(&["identity", "--out", &identity]).output().unwrap();
    let key = String::from_utf8(made.stdout).unwrap();
    let pinned = ["--identity", &identity, "--peer-key", key.trim()];
    let refused = client("grpc://127.0.0.1:1", &for_client, &json, &pinned);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--insecure"));
}
