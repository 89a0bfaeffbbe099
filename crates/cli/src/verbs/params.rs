//! `cipherform params`: every set with its security, failure probability, precision, levels and sizes.

use crate::output::{bytes, write_json};
use anyhow::Result;
use cipherform_ckks::noise::NoiseModel;
use cipherform_ckks::{
    BootstrapEstimate, BootstrapOptions, Ciphertext, KeySpec, Parameters, SecretDistribution,
    SecurityTable, SeededKey, SwitchingKey, presets,
};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this set, in full.
    set: Option<String>,
    /// Write the sets as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is encrypted under which secret and modulus: the pair that security depends on.
struct Encrypted {
    what: &'static str,
    secret: SecretDistribution,
    log2_modulus: f64,
}

impl Encrypted {
    fn limit(&self, params: &Parameters) -> Option<f64> {
        SecurityTable::max_log_qp(params.n(), self.secret).ok()
    }
}

/// A set and everything that is predicted of it.
struct Set {
    params: Parameters,
    /// Default and precise mode, for a set that can bootstrap.
    bootstrapping: Vec<(&'static str, BootstrapEstimate)>,
}

impl Set {
    fn new(name: &str) -> Result<Self> {
        let params = presets::get(name)?;
        let mut bootstrapping = Vec::new();
        if params.bootstrapping().is_some() {
            for (mode, precise) in [("default", false), ("precise", true)] {
                let options = BootstrapOptions { precise, ..BootstrapOptions::default() };
                // A set may have too few levels for the precise mode, or know no other.
                if let Ok(estimate) = BootstrapEstimate::new(&params, options)
                    && bootstrapping.last().is_none_or(|(_, last)| *last != estimate)
                {
                    bootstrapping.push((mode, estimate));
                }
            }
        }
        Ok(Self { params, bootstrapping })
    }

    fn encrypted(&self) -> Vec<Encrypted> {
        let params = &self.params;
        let dense = params.literal().secret;
        let at_top = |what| Encrypted { what, secret: dense, log2_modulus: params.log_qp() };
        let mut all = vec![
            at_top("public key"),
            at_top("relinearization, rotations, conjugation"),
            Encrypted {
                what: "ciphertexts",
                secret: dense,
                log2_modulus: params.log2_q_at(params.max_level()),
            },
        ];
        if let (Some(set), Some(log2_modulus)) =
            (params.bootstrapping(), params.log2_encapsulation())
        {
            let secret = SecretDistribution::FixedWeight(set.ephemeral_weight);
            all.push(at_top("sparse to dense"));
            all.push(Encrypted { what: "dense to sparse", secret, log2_modulus });
        }
        all
    }

    /// Largest log2 QP that the security table allows for the set's secret.
    fn limit(&self) -> Option<f64> {
        SecurityTable::max_log_qp(self.params.n(), self.params.literal().secret).ok()
    }

    /// Between two bootstraps, or in all.
    fn levels(&self) -> usize {
        self.bootstrapping
            .first()
            .map_or(self.params.max_level(), |(_, b)| b.output_level - b.input_level)
    }

    /// The nominal scale.
    fn scale(&self) -> f64 {
        f64::from(self.params.literal().log2_scale).exp2()
    }

    /// Bits below one that a rescale leaves intact in a slot, one standard deviation.
    fn rescale_bits(&self) -> f64 {
        let noise = NoiseModel::new(&self.params);
        noise.bits(noise.rounding(), self.scale())
    }

    /// Bits that the set delivers: of a rescale, or of the worst slot of a bootstrap.
    fn precision(&self) -> f64 {
        self.bootstrapping.first().map_or_else(|| self.rescale_bits(), |(_, b)| b.precision.worst)
    }

    fn failure_log2(&self) -> Option<f64> {
        self.bootstrapping.first().map(|(_, b)| b.failure_log2)
    }

    /// Expanded and seeded bytes of one key at the highest level.
    fn key_bytes(&self) -> (u64, u64) {
        let spec = KeySpec::relinearization(self.params.max_level());
        let seeded = SeededKey::serialized_len(&self.params, spec) as u64;
        (SwitchingKey::expanded_bytes(&self.params, spec), seeded)
    }

    /// Expanded and seeded bytes of all keys of a bootstrap.
    fn key_set_bytes(&self, estimate: &BootstrapEstimate) -> (u64, u64) {
        let expanded = |&spec: &KeySpec| SwitchingKey::expanded_bytes(&self.params, spec);
        let seeded = |&spec: &KeySpec| SeededKey::serialized_len(&self.params, spec) as u64;
        (estimate.keys.iter().map(expanded).sum(), estimate.keys.iter().map(seeded).sum())
    }

    /// Where ciphertexts live: the highest level, the highest that computations use, and the lowest.
    fn ciphertexts(&self) -> Vec<(&'static str, usize)> {
        let (top, application) = (self.params.max_level(), self.params.application_level());
        let mut levels = vec![("top", top), ("application", application), ("lowest", 0)];
        levels.dedup_by_key(|(_, level)| *level);
        levels
    }

    /// In memory, and as bytes with both halves or with a seed.
    fn ciphertext_bytes(&self, level: usize) -> (u64, u64, u64) {
        let serialized = |seeded| Ciphertext::serialized_len(&self.params, level, 1, seeded) as u64;
        let words = 2 * self.params.limbs_at(level) * self.params.n();
        (8 * words as u64, serialized(false), serialized(true))
    }

    fn json(&self) -> Value {
        let (key_bytes, key_bytes_seeded) = self.key_bytes();
        let params = &self.params;
        let ciphertexts = self.ciphertexts().into_iter().map(|(name, level)| {
            let (memory, full, seeded) = self.ciphertext_bytes(level);
            json!({
                "at": name, "level": level, "limbs": params.limbs_at(level), "bytes": memory,
                "serialized_bytes": full, "seeded_bytes": seeded,
            })
        });
        let bootstrapping = self.bootstrapping.iter().map(|(mode, b)| {
            let (expanded, seeded) = self.key_set_bytes(b);
            json!({
                "mode": mode, "levels": b.output_level - b.input_level,
                "input_level": b.input_level, "output_level": b.output_level,
                "noise_std_bits": b.precision.noise_std, "noise_worst_bits": b.precision.noise_worst,
                "sine_bits": b.precision.sine, "worst_bits": b.precision.worst,
                "failure_log2": finite(b.failure_log2), "keys": b.keys.len(),
                "key_bytes": expanded, "key_bytes_seeded": seeded, "memory_bytes": b.memory_bytes,
            })
        });
        let encrypted = self.encrypted().into_iter().map(|e| {
            json!({
                "what": e.what, "secret": e.secret.to_string(), "log2_modulus": e.log2_modulus,
                "log2_limit": e.limit(params),
            })
        });
        json!({
            "name": params.name(), "log_n": params.log_n(),
            "log_qp": params.log_qp(), "log_qp_limit": self.limit(),
            "security_bits": params.security_bits(),
            "levels": self.levels(), "log2_scale": self.scale().log2(),
            "failure_log2": self.failure_log2().and_then(finite),
            "precision_bits": self.precision(), "rescale_bits": self.rescale_bits(),
            "limbs": params.q().len(), "special": params.special().len(),
            "digits": params.digit_sizes(),
            "key_bytes": key_bytes, "key_bytes_seeded": key_bytes_seeded,
            "encrypted": encrypted.collect::<Vec<_>>(),
            "ciphertexts": ciphertexts.collect::<Vec<_>>(),
            "bootstrapping": bootstrapping.collect::<Vec<_>>(),
        })
    }

    /// The line of the set, and one for each further way to bootstrap.
    fn lines(&self) -> Vec<String> {
        let params = &self.params;
        let (expanded, seeded) = self.key_bytes();
        let failure = self.failure_log2().map_or("-".to_owned(), |f| format!("2^{f:.0}"));
        let mut lines = vec![format!(
            "{:<12} {:>5} {:>8.1} {:>6} {:>9} {:>6} {:>6} {:>5.1} bits {failure:>8} {:>9} {:>9}",
            params.name(),
            params.log_n(),
            params.log_qp(),
            self.limit().map_or("-".to_owned(), |l| format!("{l:.0}")),
            security(params),
            self.levels(),
            params.literal().log2_scale,
            self.precision(),
            bytes(expanded),
            bytes(seeded),
        )];
        for (mode, b) in self.bootstrapping.iter().skip(1) {
            let levels = b.output_level - b.input_level;
            let mode = format!("  {mode}");
            lines.push(format!("{mode:<44} {levels:>6} {:>6} {:>5.1} bits", "", b.precision.worst));
        }
        lines
    }

    fn details(&self) {
        let params = &self.params;
        println!(
            "\n{} q limbs of {:.1} bits in all and {} special primes of {:.1}; {} digits of {:?} limbs",
            params.q().len(),
            params.log2_q_at(params.max_level()),
            params.special().len(),
            params.log2_p(),
            params.dnum(),
            params.digit_sizes()
        );
        println!(
            "\nencrypted                                 under                    log2 modulus     limit"
        );
        for e in self.encrypted() {
            let limit = e.limit(params).map_or("none known".to_owned(), |l| format!("{l:.0}"));
            println!(
                "{:<41} {:<24} {:>12.1} {limit:>9}",
                e.what,
                e.secret.to_string(),
                e.log2_modulus
            );
        }
        println!(
            "\nciphertext           level   limbs   in memory   sent        sent fresh (seeded)"
        );
        for (name, level) in self.ciphertexts() {
            let (memory, full, seeded) = self.ciphertext_bytes(level);
            let limbs = params.limbs_at(level);
            let (memory, full) = (bytes(memory), bytes(full));
            println!(
                "{name:<20} {level:>5} {limbs:>7} {memory:>11}   {full:<11} {}",
                bytes(seeded)
            );
        }
        for (mode, b) in &self.bootstrapping {
            let (expanded, seeded) = self.key_set_bytes(b);
            println!(
                "\nbootstrap, {mode}: level {} to {}, {} levels between two; {} keys, {} expanded, {} seeded; {} in all\n  \
                 noise {:.1} bits (deviation), {:.1} (worst slot); sine {:.1}; together {:.1} bits in the worst slot; failure 2^{:.0}",
                b.input_level,
                b.output_level,
                b.output_level - b.input_level,
                b.keys.len(),
                bytes(expanded),
                bytes(seeded),
                bytes(b.memory_bytes),
                b.precision.noise_std,
                b.precision.noise_worst,
                b.precision.sine,
                b.precision.worst,
                b.failure_log2,
            );
        }
        println!("\na rescale leaves {:.1} bits (deviation)", self.rescale_bits());
    }
}

fn security(params: &Parameters) -> String {
    match params.security_bits() {
        0 => "INSECURE".to_owned(),
        bits => format!("{bits} bits"),
    }
}

/// JSON has no infinities: a set that cannot fail has no logarithm of its failure probability.
fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let names = match &args.set {
        Some(name) => vec![name.as_str()],
        None => presets::names(),
    };
    let sets = names.into_iter().map(Set::new).collect::<Result<Vec<_>>>()?;
    println!(
        "{:<12} {:>5} {:>8} {:>6} {:>9} {:>6} {:>6} {:>10} {:>8} {:>9} {:>9}",
        "set",
        "log N",
        "log QP",
        "limit",
        "security",
        "levels",
        "scale",
        "precision",
        "failure",
        "key",
        "seeded"
    );
    for set in &sets {
        set.lines().iter().for_each(|line| println!("{line}"));
    }
    match sets.as_slice() {
        [only] if args.set.is_some() => only.details(),
        _ => println!(
            "\nsecurity: classical bits for a uniform ternary secret, table of ePrint 2024/463 (`cipherform params SET` shows every\n\
             key under its own modulus and secret); levels: rescalings, between two bootstraps where there is one; precision: bits\n\
             of a value of 1 left by a rescale (standard deviation over the slots), or by a bootstrap (worst slot); failure: of one\n\
             bootstrap; key: one at the highest level, expanded in memory and seeded as it is sent"
        ),
    }
    let sets: Vec<_> = sets.iter().map(Set::json).collect();
    write_json(args.json.as_deref(), &json!({"schema": "cipherform.params/1", "sets": sets}))
}
