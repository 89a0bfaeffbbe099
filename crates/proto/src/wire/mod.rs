//! Generated messages to and from domain types: the only module that looks inside a generated message.
//!
//! Every conversion from the wire checks lengths and versions before anything is allocated; the 8 MiB decode limit
//! bounds what a message can hold in the first place.

mod blobs;
mod faults;
mod jobs;
mod keys;
mod models;
mod text;

pub use blobs::{BlobPart, upload, upload_chunk, upload_chunk_parts, upload_id, upload_status};
pub(crate) use faults::{fault_details, fault_from_details};
pub use jobs::{
    JobEvent, JobRequest, JobState, MAX_INPUTS, job, job_id, job_state, result_parts,
    result_request,
};
pub use keys::{
    KeySetInfo, MAX_MISSING, commit_parts, commit_request, key_set_id, key_set_list, key_sets,
};
pub use models::{ModelSummary, model_list, model_name, model_name_text, models};
pub use text::{MAX_TEXT, text};

use crate::blob::FORMAT;
use crate::{Fault, Id, Result, pb};
use bytes::Bytes;

/// Longest name that a message may carry, in bytes.
pub const MAX_NAME: usize = 128;

/// What the server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Name and version of the server.
    pub server: String,
    /// Format version agreed on.
    pub format: u16,
    /// Jobs that can wait.
    pub queue_length: u32,
}

fn hash(what: &str, bytes: &[u8]) -> Result<[u8; 32]> {
    bytes.try_into().map_err(|_| Fault::malformed(what, format!("32 bytes, not {}", bytes.len())))
}

/// Whether a model or parameter set of that name can be spoken of on the wire.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/+".contains(c);
    !text.is_empty() && text.len() <= MAX_NAME && text.chars().all(plain)
}

fn name(what: &str, text: String) -> Result<String> {
    if !is_name(&text) {
        let detail = format!("1 to {MAX_NAME} of the letters, digits and ._-/+ are a name");
        return Err(Fault::malformed(what, detail));
    }
    Ok(text)
}

fn present<T>(what: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Fault::malformed(what, "missing"))
}

/// Refuses every format version but ours.
fn format(got: u32) -> Result<()> {
    let ours = FORMAT.into();
    if got == ours { Ok(()) } else { Err(Fault::FormatVersion { min: ours, max: ours, got }) }
}

fn id_bytes(id: Id) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

/// What a client says of itself.
#[must_use]
pub fn client_info(client: &str) -> pb::ClientInfo {
    let format = FORMAT.into();
    pb::ClientInfo { client: client.to_owned(), format_min: format, format_max: format }
}

/// The server's answer to a client's versions.
///
/// # Errors
/// [`Fault::FormatVersion`] when the client speaks no version of ours.
pub fn negotiate(client: &pb::ClientInfo, info: &ServerInfo) -> Result<pb::ServerInfo> {
    let ours = u32::from(FORMAT);
    if !(client.format_min..=client.format_max).contains(&ours) {
        return Err(Fault::FormatVersion { min: ours, max: ours, got: client.format_max });
    }
    Ok(pb::ServerInfo {
        server: info.server.clone(),
        format: info.format.into(),
        chunk_bytes: crate::CHUNK_BYTES,
        message_bytes: crate::MESSAGE_BYTES as u64,
        queue_length: info.queue_length,
    })
}

impl TryFrom<pb::ServerInfo> for ServerInfo {
    type Error = Fault;
    fn try_from(info: pb::ServerInfo) -> Result<Self> {
        format(info.format)?;
        if info.chunk_bytes != crate::CHUNK_BYTES {
            return Err(Fault::malformed("server info", "another chunk size than 1 MiB"));
        }
        Ok(Self { server: text(&info.server), format: FORMAT, queue_length: info.queue_length })
    }
}

macro_rules! ids {
    ($($message:ident $field:ident),* $(,)?) => { $(
        impl TryFrom<&pb::$message> for Id {
            type Error = Fault;
            fn try_from(message: &pb::$message) -> Result<Self> {
                Self::from_bytes(&message.$field)
            }
        }
    )* };
}
ids!(Upload upload_id, UploadId upload_id, KeySetId key_set_id, JobId job_id, Job job_id);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlobHeader, BlobKind, Chunk};

    fn header() -> BlobHeader {
        BlobHeader {
            kind: BlobKind::EvaluationKey,
            parameters: [1; 32],
            bytes: 1 << 40,
            digest: [2; 32],
            model: "fashion-mnist-vit".into(),
            index: 7,
        }
    }

    #[test]
    fn headers_and_chunks_survive_the_wire() {
        let wire = pb::BlobHeader::from(header());
        assert_eq!(BlobHeader::try_from(wire), Ok(header()));
        let chunk = Chunk { offset: 1 << 20, hash: [3; 32], data: Bytes::from_static(b"abc") };
        let id = Id::random().unwrap();
        let (got_id, got) = upload_chunk_parts(upload_chunk(id, chunk.clone())).unwrap();
        assert_eq!((got_id, got), (id, chunk));
    }

    #[test]
    fn job_requests_and_events_survive_the_wire() {
        let id = || Id::random().unwrap();
        let request = JobRequest {
            model: "m".into(),
            key_set: id(),
            uploads: vec![id(), id()],
            idempotency_key: [5; 16],
            tokens: 7,
        };
        let wire = pb::JobRequest::from(request.clone());
        assert_eq!(JobRequest::try_from(wire), Ok(request));
        let mut event = JobEvent::new(JobState::Failed);
        event.error = Some(Fault::not_found("x", "y"));
        event.elapsed = std::time::Duration::from_micros(1234);
        assert_eq!(JobEvent::try_from(pb::JobEvent::from(event.clone())), Ok(event));
    }

    #[test]
    fn names_in_events_do_not_steer_a_terminal() {
        let bad = format!("\u{1b}[2J\r{}", "x".repeat(4000));
        let mut event = JobEvent::new(JobState::Running);
        (event.operator, event.layer) = (bad.clone(), bad.clone());
        let got = JobEvent::try_from(pb::JobEvent::from(event)).unwrap();
        for name in [got.operator, got.layer] {
            assert!(name.len() <= MAX_TEXT && !name.chars().any(char::is_control), "{name:?}");
        }
        let info = ServerInfo { server: bad, format: FORMAT, queue_length: 8 };
        let got = ServerInfo::try_from(negotiate(&client_info("c"), &info).unwrap()).unwrap();
        assert!(got.server.len() <= MAX_TEXT && !got.server.chars().any(char::is_control));
    }

    /// Each field alone made wrong is refused with the right type.
    #[test]
    fn hostile_fields_are_refused() {
        let good = pb::BlobHeader::from(header());
        let short = Bytes::from_static(&[0; 31]);
        let names = ["", "a b", "../x\n", "ä", &"x".repeat(MAX_NAME + 1)];
        let mut bad = vec![
            pb::BlobHeader { kind: 0, ..good.clone() },
            pb::BlobHeader { kind: 99, ..good.clone() },
            pb::BlobHeader { parameters: short.clone(), ..good.clone() },
            pb::BlobHeader { digest: short.clone(), ..good.clone() },
        ];
        bad.extend(names.map(|model| pb::BlobHeader { model: model.into(), ..good.clone() }));
        for header in bad {
            let refused = BlobHeader::try_from(header.clone());
            assert!(matches!(refused, Err(Fault::Malformed { .. })), "{header:?}");
        }
        let newer = BlobHeader::try_from(pb::BlobHeader { format: 2, ..good });
        assert_eq!(newer, Err(Fault::FormatVersion { min: 1, max: 1, got: 2 }));

        let data = Bytes::from(vec![0; (crate::CHUNK_BYTES + 1) as usize]);
        let chunk = pb::Chunk { offset: 0, hash: Bytes::from_static(&[0; 32]), data };
        assert!(matches!(Chunk::try_from(chunk), Err(Fault::TooLarge { .. })));
        let chunk = pb::Chunk { offset: 0, hash: short.clone(), data: Bytes::new() };
        assert!(matches!(Chunk::try_from(chunk), Err(Fault::Malformed { .. })));
        let nothing = pb::UploadChunk { upload_id: Bytes::from_static(&[0; 16]), chunk: None };
        assert!(matches!(upload_chunk_parts(nothing), Err(Fault::Malformed { .. })));
        assert!(BlobPart::try_from(pb::BlobPart { part: None }).is_err());
        assert!(Id::from_bytes(&[0; 15]).is_err());

        let good = JobRequest {
            model: "m".into(),
            key_set: Id::random().unwrap(),
            uploads: Vec::new(),
            idempotency_key: [0; 16],
            tokens: 1,
        };
        let good = pb::JobRequest::from(good);
        let id = Bytes::from_static(&[0; 16]);
        let many = pb::JobRequest { upload_ids: vec![id; MAX_INPUTS + 1], ..good.clone() };
        assert!(matches!(JobRequest::try_from(many), Err(Fault::TooLarge { .. })));
        for bad in [
            pb::JobRequest { key_set_id: Bytes::new(), ..good.clone() },
            pb::JobRequest { upload_ids: vec![short.clone()], ..good.clone() },
            pb::JobRequest { tokens: 0, ..good.clone() },
            pb::JobRequest { idempotency_key: short, ..good },
        ] {
            assert!(matches!(JobRequest::try_from(bad), Err(Fault::Malformed { .. })));
        }
    }

    #[test]
    fn versions_are_negotiated_or_refused() {
        let info = ServerInfo { server: "s".into(), format: FORMAT, queue_length: 8 };
        let agreed = negotiate(&client_info("c"), &info).unwrap();
        assert_eq!(ServerInfo::try_from(agreed), Ok(info.clone()));
        let newer = pb::ClientInfo { client: "c".into(), format_min: 2, format_max: 3 };
        assert!(matches!(negotiate(&newer, &info), Err(Fault::FormatVersion { got: 3, .. })));
    }
}
