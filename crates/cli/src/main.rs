//! The `cipherform` binary: argument parsing and printing, nothing else.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command line tool prints")]

mod output;
mod verbs;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Private transformer inference over encrypted data.
#[derive(Debug, Parser)]
#[command(name = "cipherform", version, about, propagate_version = true)]
struct Cli {
    /// Show the causes of an error one a line.
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Classify three real images through an encrypted client-server round trip, and show where the time went.
    #[command(after_help = "Example:\n  cipherform demo --json demo.json")]
    Demo(verbs::demo::Args),
    /// Serve models to clients.
    #[command(
        after_help = "Example:\n  cipherform serve --listen 127.0.0.1:50051 --model models/fashion-mnist-vit"
    )]
    Serve(verbs::serve::Args),
    /// Make a secret key file.
    #[command(after_help = "Example:\n  cipherform keygen --set lev16_36 --out client.key")]
    Keygen(verbs::keygen::Args),
    /// Classify images with a server that never sees them.
    #[command(
        after_help = "Example:\n  cipherform infer --server http://127.0.0.1:50051 --model fashion-mnist-vit shirt.png"
    )]
    Infer(verbs::infer::Args),
    /// Accuracy on the model's data set, in the clear or encrypted.
    #[command(
        after_help = "Example:\n  cipherform eval --model models/fashion-mnist-vit --backend he --limit 20"
    )]
    Eval(verbs::eval::Args),
    /// The latency breakdown of one encrypted inference.
    #[command(
        after_help = "Example:\n  cipherform profile --model models/fashion-mnist-vit --runs 3 --html report.html"
    )]
    Profile(verbs::profile::Args),
    /// Time, memory, bytes and counts, without running and without keys.
    #[command(after_help = "Example:\n  cipherform estimate --model models/fashion-mnist-vit")]
    Estimate(verbs::estimate::Args),
    /// Measure this machine once, so that plans and estimates are made for it.
    #[command(after_help = "Example:\n  cipherform calibrate --device cpu --set lev16_36")]
    Calibrate(verbs::calibrate::Args),
    /// The parameter sets: security, levels, sizes.
    #[command(after_help = "Example:\n  cipherform params lev16_36")]
    Params(verbs::params::Args),
    /// Benchmark the ring, the scheme or a model.
    #[command(after_help = "Example:\n  cipherform bench ckks --json bench.json")]
    Bench(verbs::bench::Args),
    /// List, show and generate models.
    #[command(
        after_help = "Example:\n  cipherform model random --tokens 64 --width 64 --heads 4 --layers 1 --out /tmp/random"
    )]
    Model(verbs::model::Args),
    /// Two-party inference on secret shares: run, prepare, identify.
    #[command(
        after_help = "Example:\n  cipherform mpc run --heads relu,relu,scale,scale --network wan"
    )]
    Mpc(verbs::mpc::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.verb {
        Verb::Demo(args) => verbs::demo::run(&args),
        Verb::Serve(args) => verbs::serve::run(&args),
        Verb::Keygen(args) => verbs::keygen::run(&args),
        Verb::Infer(args) => verbs::infer::run(&args),
        Verb::Eval(args) => verbs::eval::run(&args),
        Verb::Profile(args) => verbs::profile::run(&args),
        Verb::Estimate(args) => verbs::estimate::run(&args),
        Verb::Calibrate(args) => verbs::calibrate::run(&args),
        Verb::Params(args) => verbs::params::run(&args),
        Verb::Bench(args) => verbs::bench::run(&args),
        Verb::Model(args) => verbs::model::run(&args),
        Verb::Mpc(args) => verbs::mpc::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if cli.verbose {
                for (depth, cause) in error.chain().enumerate() {
                    let lead = if depth == 0 { "error" } else { "  because" };
                    eprintln!("{lead}: {}", printable(&cause.to_string()));
                }
            } else {
                // One line, causes included.
                eprintln!("error: {}", printable(&format!("{error:#}")));
            }
            ExitCode::FAILURE
        }
    }
}

/// An error may quote a server or a file, and neither must drive the terminal.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}
