//! The two parties of a hybrid run.

use super::cross::Side;
use super::plan::{HybridPlan, LENGTH};
use crate::calibrate::MachineCosts;
use crate::error::{Error, Result};
use crate::exec::{Encoded, Encrypted, Progress, execute};
use crate::matrix::Matrix;
use crate::program::Program;
use crate::weights::Model;
use cipherform_ckks::{
    Ciphertext, Context, Decryptor, Encoder, Encryptor, EvaluationKeys, KeyGenerator, Parameters,
    PublicKey, SecretKey, SeededKey,
};
use cipherform_mpc::{Joint, Link, Network, Pairing};
use cipherform_profile::{Operator, operator};
use rand_core::CryptoRng;
use std::ops::ControlFlow;

/// Longest plan that a client reads.
const MAX_PLAN: usize = 64 << 20;

/// What the parties compare before the plan is known: that both set up a hybrid run for the same parameter set.
fn setup_hash(params: &Parameters) -> [u8; 32] {
    blake3::derive_key("cipherform hybrid 1 setup", &params.fingerprint())
}

fn plan_hash(bytes: &[u8]) -> [u8; 32] {
    blake3::derive_key("cipherform hybrid 1 plan", bytes)
}

/// The server: program and weights.
#[derive(Debug)]
pub struct HybridServer {
    plan: HybridPlan,
    bytes: Vec<u8>,
    context: Context,
    program: Program,
    encoded: Encoded,
}

/// One client's keys at the server.
#[derive(Debug)]
pub struct HybridSession {
    keys: EvaluationKeys,
    public: PublicKey,
}

impl HybridServer {
    /// Plans `model` for the context's set and a network, and encodes its weights.
    ///
    /// # Errors
    /// As [`HybridPlan::build`].
    pub fn new(
        model: &Model,
        context: &Context,
        costs: &MachineCosts,
        network: Option<Network>,
    ) -> Result<Self> {
        let (plan, program) = HybridPlan::build(model, context.params(), costs, network)?;
        let encoded = Encoded::new(&program, context)?;
        let bytes = plan.to_bytes()?;
        Ok(Self { plan, bytes, context: context.clone(), program, encoded })
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &HybridPlan {
        &self.plan
    }

    /// The program, for whoever compares it with another executor.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Sends the plan, receives the client's keys: once a connection.
    ///
    /// # Errors
    /// `Mpc` for errors of the link; `Ckks` for keys that are not the plan's.
    pub fn setup(&self, link: &mut Link, pairing: &mut Pairing) -> Result<HybridSession> {
        let params = self.context.params();
        let mut joint = Joint::open(link, pairing, &setup_hash(params))?;
        joint.send(&(self.bytes.len() as u64).to_le_bytes())?;
        joint.send(&self.bytes)?;
        let public = joint.receive(PublicKey::serialized_len(params))?;
        let public = PublicKey::from_bytes(&self.context, &public)?;
        let mut keys = EvaluationKeys::new(&self.context);
        for &spec in self.plan.description().plan().keys() {
            let bytes = joint.receive(SeededKey::serialized_len(params, spec))?;
            keys.insert(SeededKey::from_bytes(&self.context, &bytes)?.expand(&self.context)?)?;
        }
        joint.close()?;
        Ok(HybridSession { keys, public })
    }

    /// One inference: the client's inputs, the program with its crossings, the result back.
    ///
    /// # Errors
    /// `WrongInputs` when the client's ciphertexts are not the plan's; errors of the scheme and of the link.
    pub fn infer<R: CryptoRng>(
        &self,
        session: &HybridSession,
        link: &mut Link,
        pairing: &mut Pairing,
        rng: &mut R,
    ) -> Result<()> {
        let (params, description) = (self.context.params(), self.plan.description());
        let mut joint = Joint::open(link, pairing, &plan_hash(&self.bytes))?;
        let specs = description.plan().inputs();
        let lengths = specs.iter().map(|i| Ciphertext::serialized_len(params, i.level, 1, true));
        let lengths: Vec<usize> = lengths.collect();
        let message = joint.receive(lengths.iter().sum())?;
        let mut rest = message.as_slice();
        let mut inputs = Vec::with_capacity(lengths.len());
        for length in lengths {
            let (bytes, after) = rest.split_at_checked(length).unwrap_or_default();
            inputs.push(Ciphertext::from_bytes(&self.context, bytes)?);
            rest = after;
        }
        description.check_inputs(params, &inputs)?;
        let side = Side::new(&self.context);
        let passages = self.plan.passages();
        let cross = |index: usize, ciphertext: &Ciphertext| {
            let passage = passages.get(index).ok_or(Error::IndexOutOfBounds {
                what: "crossings",
                index,
                count: passages.len(),
            })?;
            side.server(passage, ciphertext, &session.public, &mut joint, rng)
        };
        let mut machine =
            Encrypted::new(&self.encoded, &session.keys, inputs).crossing(Box::new(cross));
        let mut monitor = |_: &Progress| ControlFlow::Continue(());
        let result = execute(&self.program, &mut machine, &[], &mut monitor)?;
        drop(machine);
        let result = result
            .first()
            .ok_or(Error::Planner { op: "hybrid", detail: "the program has no result".into() })?;
        joint.send(&result.to_bytes()?)?;
        Ok(joint.close()?)
    }
}

/// The client: keys and input.
#[derive(Debug)]
pub struct HybridClient {
    plan: HybridPlan,
    hash: [u8; 32],
    context: Context,
    secret: SecretKey,
}

impl HybridClient {
    /// Receives the plan, makes keys and sends those that the plan asks for.
    ///
    /// # Errors
    /// `Malformed` for a plan that is none; `TooLarge`; errors of the scheme and of the link.
    pub fn setup<R: CryptoRng>(
        context: &Context,
        link: &mut Link,
        pairing: &mut Pairing,
        rng: &mut R,
    ) -> Result<Self> {
        let params = context.params();
        let mut joint = Joint::open(link, pairing, &setup_hash(params))?;
        let length = joint.receive(LENGTH)?;
        let length = length.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length == 0 || length > MAX_PLAN {
            let detail = format!("{length} bytes, from 1 to {MAX_PLAN} are read");
            return Err(Error::Malformed { what: "hybrid plan", detail });
        }
        let bytes = joint.receive(length)?;
        let plan = HybridPlan::from_bytes(&bytes, params)?;
        let generator = KeyGenerator::new(context);
        let secret = generator.secret_key(rng)?;
        joint.send(&generator.public_key(&secret, rng)?.to_bytes()?)?;
        for &spec in plan.description().plan().keys() {
            joint.send(&generator.evaluation_key(&secret, spec, rng)?.to_bytes()?)?;
        }
        joint.close()?;
        Ok(Self { plan, hash: plan_hash(&bytes), context: context.clone(), secret })
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &HybridPlan {
        &self.plan
    }

    /// The logits of one input.
    ///
    /// # Errors
    /// `OutOfRange` for an input outside the calibrated ranges, before anything is sent; errors of the scheme and of the link.
    pub fn infer<R: CryptoRng>(
        &self,
        input: &Matrix,
        link: &mut Link,
        pairing: &mut Pairing,
        rng: &mut R,
    ) -> Result<Vec<f64>> {
        let (context, params) = (&self.context, self.context.params());
        let (description, plan) = (self.plan.description(), self.plan.description().plan());
        let encoder = Encoder::new(context);
        let encryptor = Encryptor::with_secret_key(context, &self.secret)?;
        let mut message = Vec::new();
        {
            let _span = operator(Operator::new("input"));
            for (spec, slots) in plan.inputs().iter().zip(description.encode(input)?) {
                let plain = encoder.encode(&slots, spec.level, params.scale_at(spec.level))?;
                message.extend(encryptor.encrypt(&plain, rng)?.to_bytes()?);
            }
        }
        let mut joint = Joint::open(link, pairing, &self.hash)?;
        joint.send(&message)?;
        let side = Side::new(context);
        for passage in self.plan.passages() {
            let _span = operator(Operator::new(passage.name()));
            side.client(passage, &self.secret, &mut joint, rng)?;
        }
        let _span = operator(Operator::new("result"));
        let result =
            joint.receive(Ciphertext::serialized_len(params, plan.output_level(), 1, false))?;
        joint.close()?;
        let result = Ciphertext::from_bytes(context, &result)?;
        let slots = encoder.decode(&Decryptor::new(context, &self.secret)?.decrypt(&result)?)?;
        description.decode(&slots)
    }
}
