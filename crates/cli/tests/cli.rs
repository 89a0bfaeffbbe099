//! The binary as a user meets it.
//!
//! | test | what it shows |
//! | --- | --- |
//! | `every_verb_has_help_with_an_example` | `--help` of all verbs |
//! | `wrong_usage_and_failures_have_their_exit_codes` | 2 for usage, 1 for one readable sentence |
//! | `parameter_sets` | security printed and in the JSON |
//! | `benches_report_every_row` | rows and JSON keys of `bench`; a peer that is not there is skipped loudly |
//! | `a_soak_finds_nothing` | log of `bench soak`, every shape of input |
//! | `random_models_of_any_shape` | generate, show, evaluate, plan; one too deep without bootstraps |
//! | `sentences` | SST-2 rows in the clear, data that is missing or broken, texts that are none |
//! | `a_calibrated_machine_is_not_measured_again` | `calibrate` writes a table with bootstraps, plans read it; a damaged one names the verb that mends it |
//! | `estimate_needs_no_keys` | JSON keys of the estimate |
//! | `a_label_is_estimated_anywhere_and_run_where_it_was_built` | `--label-only`: figures without the feature, and how to build it |
//! | `a_label_needs_calibrated_logits` | a model without their range is refused with the verb that measures it |
//! | `key_files_are_never_overwritten` | keygen twice |
//! | `two_parties_over_tls` | identities, correlations, server and client as two processes; a stranger; used-up correlations |
//! | `two_parties_and_a_dealer_that_stays` | three processes, each pair over TLS |
//! | `both_parties_in_one_process` | bytes and rounds of `mpc run` equal to the formulas; unknown kinds; a trained model's label |
//! | `accuracy_against_latency_of_a_card` | `mpc pareto`: front, table, picture |
//! | `serve_and_infer` | two processes, a PNG and an unreadable image, the server's survival |
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod tiny;

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use tiny::TINY;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cipherform"));
    command.args(args).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ok(args: &[&str]) -> String {
    let out = run(args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

fn fails(args: &[&str]) -> String {
    let out = run(args);
    assert_eq!(out.status.code(), Some(1), "{args:?}: {}", text(&out.stderr));
    let message = text(&out.stderr);
    assert!(message.starts_with("error: "), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "one sentence: {message}");
    message
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn every_verb_has_help_with_an_example() {
    let verbs = [
        "demo",
        "serve",
        "keygen",
        "infer",
        "eval",
        "profile",
        "estimate",
        "params",
        "bench",
        "model",
        "mpc",
        "calibrate",
    ];
    for verb in verbs {
        let help = ok(&[verb, "--help"]);
        assert!(help.contains("Example:") && help.contains("Usage:"), "{verb}: {help}");
    }
}

#[test]
fn wrong_usage_and_failures_have_their_exit_codes() {
    assert_eq!(run(&["frobnicate"]).status.code(), Some(2));
    assert_eq!(run(&["eval", "--backend", "abacus"]).status.code(), Some(2));
    assert!(fails(&["eval", "--model", "no-such-model"]).contains("no-such-model"));
    let hostile = fails(&["eval", "--model", "no\u{1b}[2Jmodel"]);
    assert!(!hostile.trim_end().contains(char::is_control), "{hostile:?}");
    // A card that is not there is never replaced by the CPU.
    for verb in ["estimate", "serve", "demo"] {
        let message = fails(&[verb, "--device", "cuda:4096"]);
        assert!(message.contains("`cuda:4096` is not available"), "{message}");
    }
    assert!(fails(&["params", "lev99"]).contains("lev99"));
    let nobody = "http://127.0.0.1:9";
    let image = "models/samples/0.png";
    assert!(fails(&["infer", "--server", nobody, image]).contains("127.0.0.1:9"));
}

#[test]
fn parameter_sets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("params.json");
    let out = ok(&["params", "--json", file.to_str().unwrap()]);
    assert!(out.contains("lev16_36") && out.contains("INSECURE"), "{out}");
    let value = json(&file);
    assert_eq!(value["schema"], "cipherform.params/1");
    for set in value["sets"].as_array().unwrap() {
        let toy = set["name"].as_str().unwrap().starts_with("toy");
        assert_eq!(set["security_bits"].as_u64().unwrap() >= 128, !toy, "{set}");
        for key in set["encrypted"].as_array().unwrap() {
            let within = key["log2_modulus"].as_f64() <= key["log2_limit"].as_f64();
            assert!(toy || within, "{set}");
        }
        assert!(set["key_bytes_seeded"].as_u64() < set["key_bytes"].as_u64());
        for mode in set["bootstrapping"].as_array().unwrap() {
            assert!(toy || mode["failure_log2"].as_f64().unwrap() <= -128.0, "{mode}");
            assert!(mode["levels"].as_u64().unwrap() > 0);
        }
    }
    let boot = ok(&["params", "boot16", "--json", file.to_str().unwrap()]);
    assert!(boot.contains("dense to sparse") && boot.contains("weight-32"), "{boot}");
    let set = &json(&file)["sets"][0];
    // The key to the ephemeral secret is under its own modulus, far below that of the set.
    assert!(set["encrypted"][4]["log2_modulus"].as_f64().unwrap() < 200.0);
    assert_eq!((&set["levels"], &set["bootstrapping"][0]["mode"]), (&15.into(), &"default".into()));
}

#[test]
fn benches_report_every_row() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bench.json");
    let path = file.to_str().unwrap();
    let shape = ["--set", "toy11_lev", "--runs", "2", "--threads", "1", "--json", path];
    let missing = ["--peers", "--peer-lib", "/nonexistent/lattigo-linux.so"];
    let out = run(&[&["bench", "ckks"][..], &shape, &missing].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("SKIPPED the peer: no Lattigo at /nonexistent"));
    let value = json(&file);
    assert_eq!(value["schema"], "cipherform.bench/1");
    let names: Vec<&str> =
        value["rows"].as_array().unwrap().iter().map(|row| row["op"].as_str().unwrap()).collect();
    let expected = [
        "encode",
        "encrypt_pk",
        "encrypt_sk",
        "decrypt",
        "add",
        "ct_pt_mul",
        "rescale",
        "ct_ct_mul_relin",
        "ct_ct_mul_relin_rescale",
        "rotate",
        "conjugate",
        "hoisted_8",
        "linear_8",
        "keygen_galois",
        "encode_encrypt_pk",
    ];
    assert_eq!(names, expected);
    for row in value["rows"].as_array().unwrap() {
        assert_eq!(
            (&row["threads"], &row["limbs"], &row["runs"]),
            (&1.into(), &4.into(), &2.into())
        );
        for key in ["median_ms", "min_ms", "cpu_ms", "floor_ms"] {
            assert!(row[key].as_f64().unwrap() > 0.0, "{row}");
        }
        assert!(row["peer"].is_null() && row["ratio"].is_null());
    }
    ok(&["bench", "ring", "--set", "toy11_lev", "--runs", "1", "--json", path]);
    let value = json(&file);
    let rows = value["rows"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["op"] == "ntt"));
    for row in rows {
        let [percent, floor, min] =
            ["percent_of_floor", "floor_ms", "min_ms"].map(|key| row[key].as_f64().unwrap());
        assert!((percent - 100.0 * floor / min).abs() < 1e-6, "{row}");
        assert!(row["gb_per_s"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["copy_gb_per_s"], rows[0]["copy_gb_per_s"]);
    }
    assert!(fails(&["bench", "ckks", "--threads", "0"]).contains("0 threads"));
}

#[test]
fn a_soak_finds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("soak.json");
    ok(&["bench", "soak", "--toy", "108", "--json", file.to_str().unwrap()]);
    let value = json(&file);
    assert_eq!(value["schema"], "cipherform.soak/1");
    let counts = (&value["bootstraps"], &value["wrong"], &value["interrupted"]);
    assert_eq!(counts, (&108.into(), &0.into(), &false.into()));
    let runs = value["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 4);
    for run in runs {
        // Three kinds of each of nine shapes.
        assert_eq!(run["bootstraps"], 27);
        assert_eq!(run["worst_bits_by_shape"].as_object().unwrap().len(), 9);
        assert!(run["worst_error"].as_f64() < run["bound"].as_f64(), "{run}");
    }
}

#[test]
fn sentences() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let eval = |rows: &str, data: &[&str]| -> Vec<String> {
        let args = ["eval", "--model", "bert-tiny-he", "--rows", rows];
        args.iter().chain(data).map(|&a| a.to_owned()).collect()
    };
    let run = |args: &[String]| run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let message = |out: Output| text(&out.stderr);
    assert!(message(run(&eval("0-1", &[]))).contains("--data"), "SST-2 is not shipped");
    assert_eq!(run(&eval("3-1", &[])).status.code(), Some(2));
    // Sentences of our own in the format of the data set.
    let file = dir.path().join("sst2_dev.tsv");
    let head = "sentence\tlabel\n";
    std::fs::write(&file, format!("{head}a wonderful film\t1\na dull mess\t0\ngood\t1\n")).unwrap();
    let out = dir.path().join("eval.json");
    let args = eval("1-2", &["--data", folder, "--json", out.to_str().unwrap()]);
    let done = run(&args);
    assert!(done.status.success(), "{}", message(done));
    let value = json(&out);
    assert_eq!((&value["dataset"], &value["offset"]), (&"sst2".into(), &1.into()));
    assert_eq!(
        (&value["tokens"], &value["labels"]),
        (&serde_json::json!([5, 3]), &serde_json::json!([0, 1]))
    );
    for (row, says) in [
        ("no label", "row 0"),
        ("\t1", "empty"),
        ("\u{3042}\t1", "no word piece"),
        ("x\t2", "label 2"),
    ] {
        std::fs::write(&file, format!("{head}{row}\n")).unwrap();
        let refused = message(run(&eval("0-0", &["--data", folder])));
        assert!(refused.contains(says), "{refused}");
    }
    std::fs::write(&file, b"sentence\tlabel\n\xff\t1\n").unwrap();
    assert!(message(run(&eval("0-0", &["--data", folder]))).contains("not UTF-8"));
    let long = "good ".repeat(70);
    let refused = fails(&["demo", "--model", "bert-tiny-he", "--text", &long]);
    assert!(refused.contains("72 word pieces") && refused.contains("takes 64"), "{refused}");
    assert!(fails(&["demo", "--text", "a film"]).contains("takes no text"));
}

#[test]
fn random_models_of_any_shape() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small");
    let out = path.to_str().unwrap();
    let shape =
        ["--tokens", "10", "--width", "24", "--heads", "3", "--ffn", "40", "--classes", "5"];
    let mut args = vec!["model", "random", "--scaled-heads", "0", "--out", out];
    args.extend(shape);
    assert!(ok(&args).contains("RANDOM WEIGHTS"));
    assert!(ok(&["model", "show", out]).contains("parameter set lev16_36"));
    let file = dir.path().join("eval.json");
    ok(&["eval", "--model", out, "--limit", "3", "--json", file.to_str().unwrap()]);
    let value = json(&file);
    assert_eq!(value["random_weights"], true);
    assert_eq!(value["logits"].as_array().unwrap().len(), 3);
    assert_eq!(value["logits"][0].as_array().unwrap().len(), 5);
    let path = file.to_str().unwrap();
    ok(&["eval", "--model", out, "--backend", "mpc", "--limit", "2", "--json", path]);
    let value = json(&file);
    assert_eq!((&value["backend"], &value["equal_to_clear"]), (&"mpc".into(), &2.into()));
    assert!(value["largest_logit_difference"].as_f64().unwrap() < 0.05, "{value}");

    let deep = dir.path().join("deep");
    let deep = deep.to_str().unwrap();
    ok(&["model", "random", "--layers", "4", "--tokens", "16", "--width", "16", "--out", deep]);
    // Too deep for the levels of any set alone: refused where none is refreshed, planned with bootstraps otherwise.
    assert!(ok(&["estimate", "--model", deep]).contains("set        boot16"));
    let refusal = fails(&["estimate", "--model", deep, "--set", "lev16_36"]);
    assert!(refusal.contains("levels") && refusal.contains("35"), "{refusal}");
}

#[test]
fn a_calibrated_machine_is_not_measured_again() {
    let dir = tempfile::tempdir().unwrap();
    let with = |args: &[&str]| command(args).env("CIPHERFORM_COSTS", dir.path()).output().unwrap();
    let out = with(&["calibrate", "--set", "toy11_boot"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("bootstrap "), "{}", text(&out.stdout));
    let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let table = json(&file);
    assert!(table["entries"]["11"]["key_switch"]["slope"].as_f64().unwrap() > 0.0);
    // Nominal prices have a bootstrap factor of exactly 1; a measured one never is.
    assert!((table["entries"]["11"]["bootstrap"].as_f64().unwrap() - 1.0).abs() > 1e-9);
    // Another dimension is added, the first one stays.
    assert!(with(&["calibrate", "--set", "lev13"]).status.success());
    let both = json(&file);
    assert_eq!(both["entries"]["11"], table["entries"]["11"]);
    assert!(both["entries"]["13"].is_object());
    std::fs::write(&file, "{}").unwrap();
    let out = with(&["estimate"]);
    assert!(!out.status.success() && text(&out.stderr).contains("cipherform calibrate"));
    assert!(with(&["calibrate", "--set", "lev13"]).status.success(), "it mends the table");
}

#[test]
fn estimate_needs_no_keys() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("estimate.json");
    ok(&["estimate", "--json", file.to_str().unwrap()]);
    let value = json(&file);
    assert_eq!(value["schema"], "cipherform.estimate/1");
    for key in ["ms", "peak_rss_bytes", "key_bytes", "upload_bytes", "download_bytes"] {
        assert!(value[key].as_f64().unwrap() > 0.0, "{key}");
    }
    assert!(value["precision_bits"].as_f64().unwrap() > 8.0);
    assert!(value["counters"]["key_switches"].as_u64().unwrap() > 0);
}

#[test]
fn a_label_is_estimated_anywhere_and_run_where_it_was_built() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("estimate.json");
    let printed = ok(&["estimate", "--label-only", "--json", file.to_str().unwrap()]);
    assert!(printed.contains("label      "), "{printed}");
    let value = json(&file);
    assert_eq!(value["label"]["classes"], 10);
    assert_eq!(value["counters"]["programmable_bootstraps"], 55);
    assert!(value["label"]["log2_failure"].as_f64().unwrap() < -110.0);
    assert!(value["label"]["key_upload_bytes"].as_u64().unwrap() < 35 << 20);
    // The other extra key of the mode: that of the hand-over.
    let hand_over = value["operators"].as_array().unwrap().iter();
    assert_eq!(hand_over.filter(|o| o["operator"] == "label.hand_over").count(), 1);
    let wrong = fails(&["eval", "--label-only", "--limit", "1"]);
    assert!(wrong.contains("--backend he"), "{wrong}");
    if !cfg!(feature = "label-only") {
        for verb in ["demo", "eval --backend he --limit 1", "serve"] {
            let args: Vec<&str> = verb.split(' ').chain(["--label-only"]).collect();
            let message = fails(&args);
            assert!(message.contains("--features label-only"), "{message}");
        }
    }
}

#[test]
fn a_label_needs_calibrated_logits() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let out = model.to_str().unwrap();
    ok(&[
        "model", "random", "--tokens", "8", "--width", "16", "--heads", "2", "--ffn", "32",
        "--out", out,
    ]);
    ok(&["estimate", "--label-only", "--model", out]);
    let path = model.join("config.json");
    let mut config = json(&path);
    config.as_object_mut().unwrap().remove("logit_difference_max").unwrap();
    std::fs::write(&path, config.to_string()).unwrap();
    let message = fails(&["estimate", "--label-only", "--model", out]);
    assert!(message.contains("cipherform model logits"), "{message}");
    ok(&["estimate", "--model", out]);
}

#[test]
fn key_files_are_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("client.key");
    let path = path.to_str().unwrap();
    ok(&["keygen", "--set", "lev14", "--out", path]);
    let before = std::fs::read(path).unwrap();
    fails(&["keygen", "--set", "lev14", "--out", path]);
    assert_eq!(std::fs::read(path).unwrap(), before);
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn serve_and_infer() {
    let mut child =
        command(&["serve", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let server = Server(child);
    let url = loop {
        let line = lines.next().expect("the server announces its address").unwrap();
        if let Some(rest) = line.strip_prefix("serving on ") {
            break rest.split(';').next().unwrap().to_owned();
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.png");
    std::fs::write(&broken, b"\x89PNG\r\n\x1a\nnot an image").unwrap();
    let message = fails(&["infer", "--server", &url, broken.to_str().unwrap()]);
    assert!(message.contains("broken.png") && message.contains("PNG or JPEG"), "{message}");
    assert!(fails(&["infer", "--server", &url, "--model", "other", "x.png"]).contains("other"));

    let file = dir.path().join("infer.json");
    let image = "models/samples/0.png";
    let out = ok(&["infer", "--server", &url, image, "--json", file.to_str().unwrap()]);
    assert!(out.contains("Ankle boot"), "{out}");
    let value = json(&file);
    assert_eq!(value["schema"], "cipherform.infer/1");
    assert_eq!(value["inputs"][0]["encrypted_label"], 9);
    drop(server);
}

#[test]
fn both_parties_in_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.json");
    let mut args = vec!["mpc", "run", "--network", "0,1000", "--json", file.to_str().unwrap()];
    args.extend(TINY);
    let out = ok(&args);
    assert!(out.contains("attention.relu_softmax") && out.contains("in the clear"), "{out}");
    let value = json(&file);
    for role in ["server", "client"] {
        let party = &value["summary"][role];
        assert!(party["sent"].as_u64().unwrap() > 0);
        assert_eq!(party["sent"], party["sent_predicted"]);
        assert_eq!(party["rounds"], party["rounds_predicted"]);
        assert_eq!(value[role]["mismatches"].as_array().unwrap().len(), 0);
    }
    assert!(fails(&["mpc", "run", "--heads", "sparkling"]).contains("sparkling"));
    assert!(fails(&["mpc", "run", "--network", "fast"]).contains("fast"));
    let clear = [&["mpc", "run", "--mode", "clear"][..], &TINY[..]].concat();
    assert!(ok(&clear).contains("result"));
    let without =
        [&["mpc", "run", "--mode", "no-dealer", "--json", file.to_str().unwrap()][..], &TINY[..]];
    assert!(ok(&without.concat()).contains("in the clear"));
    let value = json(&file);
    for role in ["server", "client"] {
        assert!(value[role]["sent"].as_u64().unwrap() > 0);
        for what in ["sent", "rounds", "setup_sent"] {
            assert_eq!(value[role][what], value[role][format!("{what}_predicted")]);
        }
    }
    let trained = ok(&["mpc", "run", "--model", "fashion-mnist-vit"]);
    let line = trained.lines().find_map(|l| l.strip_prefix("label ")).unwrap();
    let (shared, clear) = line.split_once(", in the clear ").unwrap();
    assert_eq!(shared, clear);
}

#[test]
fn accuracy_against_latency_of_a_card() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("searched");
    std::fs::create_dir(&model).unwrap();
    let point = |name: &str, heads: [&str; 2], activation: &str, accuracy: f64| {
        serde_json::json!({
            "name": name, "kind": "relu", "heads": [heads], "activations": [activation], "eps_row_sum": 0.25,
            "accuracy_percent": { "validation": 1.0, "test": accuracy, "images": 100 },
        })
    };
    let card = serde_json::json!({
        "name": "searched",
        "dataset": { "name": "a data set" },
        "shape": { "tokens": 8, "width": 32, "ffn": 32, "heads": 2, "layers": 1, "norm_eps": 1e-3 },
        "points": [
            point("all", ["relu", "relu"], "gelu", 80.0),
            point("none", ["scale", "scale"], "none", 70.0),
            point("worse", ["softmax", "softmax"], "gelu", 75.0),
        ],
    });
    std::fs::write(model.join("card.json"), card.to_string()).unwrap();
    let [html, svg, table] = ["page.html", "picture.svg", "table.json"].map(|n| dir.path().join(n));
    let path = |p: &std::path::Path| p.to_str().unwrap().to_owned();
    let out = ok(&[
        "mpc",
        "pareto",
        "--models",
        &path(dir.path()),
        "--runs",
        "1",
        "--networks",
        "lan;200,1",
        "--html",
        &path(&html),
        "--svg",
        &path(&svg),
        "--json",
        &path(&table),
    ]);
    let front = |name: &str| {
        let line = out.lines().find(|l| l.contains(&format!("  {name} "))).unwrap();
        line.ends_with('*')
    };
    // A round trip of 0.2 s hides what a loaded machine adds: all is slower than none, worse slower than all.
    assert!(front("all") && front("none") && !front("worse"), "{out}");
    let rows = json(&table)["rows"].as_array().unwrap().clone();
    assert_eq!(
        rows.iter().map(|r| r["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["none", "all", "worse"]
    );
    let rounds = |i: usize| rows[i]["rounds"].as_u64().unwrap() as f64;
    for (i, row) in rows.iter().enumerate() {
        let network =
            row["latency_s"]["200,1"].as_f64().unwrap() - row["compute_s"].as_f64().unwrap();
        assert!(network > 0.1 * rounds(i), "{row}");
    }
    let picture = std::fs::read_to_string(svg).unwrap();
    assert_eq!(picture.matches("<circle").count(), 2 * 3 + 1);
    assert!(std::fs::read_to_string(html).unwrap().contains(&picture));
    let empty = tempfile::tempdir().unwrap();
    assert!(fails(&["mpc", "pareto", "--models", &path(empty.path())]).contains("no card"));
}

#[test]
fn two_parties_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [server_key, client_key, stranger_key] = ["server.id", "client.id", "stranger.id"]
        .map(|name| ok(&["mpc", "identity", "--out", &path(name)]).trim().to_owned());
    assert!(fails(&["mpc", "identity", "--out", &path("server.id")]).contains("server.id"));
    let dealt = path("dealt");
    let deal = [&["mpc", "deal", "--count", "2", "--out", &dealt][..], &TINY[..]].concat();
    assert!(ok(&deal).contains("2 runs"));
    let (for_server, for_client) = (format!("{dealt}/server"), format!("{dealt}/client"));
    let (server_id, client_id) = (path("server.id"), path("client.id"));
    let listen = |peer_key: &str| {
        let args = [
            "mpc",
            "run",
            "--role",
            "server",
            "--listen",
            "127.0.0.1:0",
            "--correlations",
            &for_server,
            "--identity",
            &server_id,
            "--peer-key",
            peer_key,
            "--deadline",
            "20",
        ];
        let args = [&args[..], &TINY[..]].concat();
        let mut child =
            command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().expect("the server announces its address").unwrap();
        (child, line.strip_prefix("listening on ").unwrap().to_owned(), lines)
    };
    let connect = |address: &str, identity: &str, more: &[&'static str]| {
        let args = [
            "mpc",
            "run",
            "--role",
            "client",
            "--peer",
            address,
            "--correlations",
            &for_client,
            "--identity",
            identity,
            "--peer-key",
            &server_key,
            "--deadline",
            "20",
        ];
        run(&[&args[..], &TINY[..], more].concat())
    };
    let (child, address, lines) = listen(&client_key);
    let client = connect(&address, &client_id, &[]);
    assert!(client.status.success(), "{}", text(&client.stderr));
    assert!(text(&client.stdout).contains("1 runs left"));
    assert!(lines.map_while(Result::ok).any(|l| l.contains("1 runs left")));
    drop(Server(child));

    // Another key, then another plan: both sides fail, and nothing is used up.
    let (child, address, _lines) = listen(&stranger_key);
    assert!(!connect(&address, &client_id, &[]).status.success());
    assert!(!child.wait_with_output().unwrap().status.success());
    let (child, address, _lines) = listen(&client_key);
    let other = connect(&address, &client_id, &["--eps", "0.25"]);
    assert!(!other.status.success());
    let error = text(&child.wait_with_output().unwrap().stderr);
    assert!(error.contains("another plan"), "{error}");

    let (child, address, _lines) = listen(&client_key);
    assert!(connect(&address, &client_id, &[]).status.success());
    drop(Server(child));
    let (child, address, _lines) = listen(&client_key);
    let last = connect(&address, &client_id, &[]);
    assert!(text(&last.stderr).contains("run `deal` again"), "{}", text(&last.stderr));
    drop(Server(child));
}

#[test]
fn two_parties_and_a_dealer_that_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [dealer_key, server_key, client_key] = ["dealer.id", "server.id", "client.id"]
        .map(|name| ok(&["mpc", "identity", "--out", &path(name)]).trim().to_owned());
    let start = |args: &[&str]| {
        let args = [&["mpc"], args, &TINY[..], &["--deadline", "20"]].concat();
        let mut child = command(&args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (Server(child), lines)
    };
    let local = "127.0.0.1:0";
    let (_dealer, mut dealer_says) = start(&[
        "deal",
        "--for-server",
        local,
        "--for-client",
        local,
        "--identity",
        &path("dealer.id"),
        "--server-key",
        &server_key,
        "--client-key",
        &client_key,
    ]);
    let mut address = |prefix: &str| {
        let line = dealer_says.next().unwrap().unwrap();
        line.strip_prefix(prefix).unwrap().to_owned()
    };
    let for_server = address("server: listening on ");
    let for_client = address("client: listening on ");
    let (_server, mut server_says) = start(&[
        "run",
        "--role",
        "server",
        "--listen",
        local,
        "--dealer",
        &for_server,
        "--dealer-key",
        &dealer_key,
        "--identity",
        &path("server.id"),
        "--peer-key",
        &client_key,
        "--runs",
        "2",
    ]);
    let line = server_says.next().unwrap().unwrap();
    let peer = line.strip_prefix("listening on ").unwrap();
    let args = [
        "mpc",
        "run",
        "--role",
        "client",
        "--peer",
        peer,
        "--dealer",
        &for_client,
        "--dealer-key",
        &dealer_key,
        "--identity",
        &path("client.id"),
        "--peer-key",
        &server_key,
        "--runs",
        "2",
        "--deadline",
        "20",
    ];
    let out = ok(&[&args[..], &TINY[..]].concat());
    assert!(out.contains("in the clear"), "{out}");
    assert!(dealer_says.map_while(Result::ok).any(|l| l.starts_with("2 runs in")));
}
