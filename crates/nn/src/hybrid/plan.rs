//! The plan of a hybrid run, and what it costs.

use super::cross::Passage;
use crate::calibrate::MachineCosts;
use crate::error::{Error, Result};
use crate::label::Mode;
use crate::plan::Plan;
use crate::program::{Crossing, Instruction, Opcode, Program};
use crate::session::ModelDescription;
use crate::weights::Model;
use cipherform_ckks::{Parameters, PublicKey, SeededKey};
use cipherform_mpc::{Network, Role};
use serde::{Deserialize, Serialize};

/// More crossings than any plan of this planner has.
const MAX_CROSSINGS: usize = 1 << 10;

/// Both parties' time of a crossing: for each slot (four transforms, encryption, decryption: 130 ms at 2^14 slots on two busy cores), and for each
/// transfer of its circuit. They only weigh crossings against polynomials.
const SLOT_MS: f64 = 8e-3;
const TRANSFER_MS: f64 = 1e-3;

/// What a hybrid run sends, in bytes of payload, and its rounds: exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HybridCost {
    /// Sent once a connection, by server and client: plan and keys. A pairing comes before.
    pub setup: [u64; 2],
    /// Sent in one inference, by server and client.
    pub sent: [u64; 2],
    /// Longest chain of dependent messages of one inference.
    pub rounds: u32,
}

impl HybridCost {
    /// Bytes `role` sends in one inference.
    #[must_use]
    pub fn sent(&self, role: Role) -> u64 {
        self.sent[role.index()]
    }
}

/// A crossing with its place, as it travels.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Placed {
    crossing: Crossing,
    entry: (usize, f64),
    exit: (usize, f64),
}

/// How a model is evaluated by two parties, one of which encrypts: the encrypted plan and its crossings. Public.
#[derive(Clone, Debug)]
pub struct HybridPlan {
    description: ModelDescription,
    passages: Vec<Passage>,
}

fn passage(program: &Program, instruction: &Instruction) -> Result<Option<Passage>> {
    let (Opcode::Cross(id), Some(&from)) = (&instruction.op, instruction.args.first()) else {
        return Ok(None);
    };
    let (entry, exit) = (program.meta(from), program.meta(instruction.out));
    let crossing = program.crossings()[id.0 as usize].clone();
    Passage::new(crossing, (entry.level, entry.scale), (exit.level, exit.scale)).map(Some)
}

/// Milliseconds of one crossing: its messages one after the other over `network`, and both parties' processor time.
fn price(params: &Parameters, network: Option<Network>, passage: &Passage) -> Result<f64> {
    let (seam, circuit) = (passage.seam_bytes(params)?, passage.circuit_cost()?);
    let transfers: u64 = circuit.transfers.iter().sum();
    let compute = params.slots() as f64 * SLOT_MS + transfers as f64 * TRANSFER_MS;
    let Some(network) = network else { return Ok(compute) };
    let bytes = seam[0] + seam[1] + circuit.server_sent + circuit.client_sent;
    let messages = network.transmission(bytes as usize) + network.one_way * (circuit.rounds + 2);
    Ok(compute + messages.as_secs_f64() * 1e3)
}

impl HybridPlan {
    /// Plans `model` for a set, a machine and a network: at each place where ciphertexts may cross to shares it does if that takes less time.
    ///
    /// # Errors
    /// As [`Plan::for_machine`]; `Ckks` when no level of the set hides a crossing.
    pub fn build(
        model: &Model,
        params: &Parameters,
        costs: &MachineCosts,
        network: Option<Network>,
    ) -> Result<(Self, Program)> {
        let crossing = |program: &Program, instruction: &Instruction| {
            passage(program, instruction)?.map_or(Ok(0.0), |p| price(params, network, &p))
        };
        let (plan, program, _) =
            Plan::searched(model, params, costs, Mode::Logits, Some(&crossing))?;
        let passages = program
            .instructions()
            .iter()
            .filter_map(|i| passage(&program, i).transpose())
            .collect::<Result<_>>()?;
        Ok((Self { description: ModelDescription::new(model, plan)?, passages }, program))
    }

    /// The encrypted plan and what a client knows of the model.
    #[must_use]
    pub fn description(&self) -> &ModelDescription {
        &self.description
    }

    /// Its crossings, in order.
    #[must_use]
    pub fn passages(&self) -> &[Passage] {
        &self.passages
    }

    /// What it sends.
    ///
    /// # Errors
    /// As [`HybridPlan::to_bytes`]; `Mpc` for a circuit without a protocol.
    pub fn cost(&self, params: &Parameters) -> Result<HybridCost> {
        let plan = self.description.plan();
        let keys: usize = plan.keys().iter().map(|&k| SeededKey::serialized_len(params, k)).sum();
        let sizes = plan.sizes(params);
        let mut cost = HybridCost {
            setup: [
                LENGTH as u64 + self.to_bytes()?.len() as u64,
                (PublicKey::serialized_len(params) + keys) as u64,
            ],
            sent: [sizes.download_bytes, sizes.input_bytes],
            rounds: 2,
        };
        for passage in &self.passages {
            let (seam, circuit) = (passage.seam_bytes(params)?, passage.circuit_cost()?);
            cost.sent[0] += seam[0] + circuit.server_sent;
            cost.sent[1] += seam[1] + circuit.client_sent;
            cost.rounds += 2 + circuit.rounds;
        }
        Ok(cost)
    }

    /// Serialises it.
    ///
    /// # Errors
    /// When a number is not representable.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let placed: Vec<Placed> = self
            .passages
            .iter()
            .map(|p| Placed { crossing: p.crossing.clone(), entry: p.entry, exit: p.exit })
            .collect();
        let crossings = serde_json::to_vec(&placed)
            .map_err(|e| Error::Malformed { what: "crossings", detail: e.to_string() })?;
        let mut out = (crossings.len() as u64).to_le_bytes().to_vec();
        out.extend(crossings);
        out.extend(self.description.to_bytes()?);
        Ok(out)
    }

    /// Reads a plan that came from outside and checks it against the set.
    ///
    /// # Errors
    /// `Malformed`; as [`ModelDescription::validate`].
    pub fn from_bytes(bytes: &[u8], params: &Parameters) -> Result<Self> {
        let fail = |detail: String| Error::Malformed { what: "hybrid plan", detail };
        let truncated = || fail("truncated".into());
        let (length, rest) = bytes.split_first_chunk::<LENGTH>().ok_or_else(truncated)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| truncated())?;
        let (crossings, rest) = rest.split_at_checked(length).ok_or_else(truncated)?;
        let placed: Vec<Placed> =
            serde_json::from_slice(crossings).map_err(|e| fail(e.to_string()))?;
        if placed.len() > MAX_CROSSINGS {
            return Err(fail(format!("{} crossings, at most {MAX_CROSSINGS}", placed.len())));
        }
        let passages = placed
            .into_iter()
            .map(|p| {
                check(&p, params).map_err(fail)?;
                Passage::new(p.crossing, p.entry, p.exit)
            })
            .collect::<Result<_>>()?;
        let description = ModelDescription::from_bytes(rest)?;
        description.validate(params)?;
        Ok(Self { description, passages })
    }
}

/// Bytes of a length.
pub(super) const LENGTH: usize = 8;

/// What a crossing from outside must satisfy before anything is made for it.
fn check(placed: &Placed, params: &Parameters) -> std::result::Result<(), String> {
    use crate::program::Function;
    let Placed { crossing, entry, exit } = placed;
    let parts = 2 * params.slots() as u32;
    let usable = |x: f64| x.is_finite() && x > 0.0;
    let reads = crossing.parts.read.len();
    let low = match crossing.function {
        Function::Identity => 1.0,
        Function::InverseRoot { low } | Function::Reciprocal { low } => low,
    };
    let checks = [
        (entry.0.max(exit.0) <= params.max_level(), "a level that the set does not have"),
        (usable(entry.1) && usable(exit.1), "a scale that is none"),
        (usable(crossing.factor_in) && usable(crossing.factor_out), "a factor that is none"),
        (crossing.log2_bound.abs() < 64.0, "a bound that is none"),
        ((2f64.powi(-16)..=1.0).contains(&low), "a range below 2^-16"),
        (reads > 0 && reads <= parts as usize, "more elements than parts of slots, or none"),
        (crossing.parts.read.iter().all(|&r| r < parts), "a part outside the slots"),
        (
            crossing.parts.write.len() <= parts as usize
                && crossing.parts.write.iter().all(|&(p, i)| p < parts && (i as usize) < reads),
            "a part outside the slots",
        ),
    ];
    match checks.iter().find(|(fits, _)| !fits) {
        Some((_, what)) => Err(format!("a crossing with {what}")),
        None => Ok(()),
    }
}
