//! Two parties over TLS 1.3, each pinned by its Ed25519 public key.
//!
//! Both present a raw public key (RFC 7250) and both check the other's: there is no certificate authority between two parties who know each
//! other. A wrong key ends the handshake, before the greeting.

use super::memory::Queue;
use super::tcp::{READ, Until, WAITING, accept, connect, io, write_all};
use super::{Channel, Outgoing};
use crate::error::{Error, Result};
use graviola::signing::eddsa::{Ed25519SigningKey, Ed25519VerifyingKey};
use rand_core::CryptoRng;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
    UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct,
    DistinguishedName, ServerConfig, ServerConnection, SignatureScheme,
};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::str::FromStr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zeroize::{Zeroize, Zeroizing};

fn tls(detail: impl fmt::Display) -> Error {
    Error::Tls { detail: detail.to_string() }
}

/// A party's public key, 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        parse_hex(s).map(Self)
    }
}

fn parse_hex(s: &str) -> Result<[u8; 32]> {
    let malformed =
        || Error::Malformed { what: "key", detail: "expected 64 hexadecimal digits".into() };
    let digits = s.trim().as_bytes().as_chunks::<2>();
    if digits.0.len() != 32 || !digits.1.is_empty() {
        return Err(malformed());
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digits.0) {
        let digit = |c: u8| (c as char).to_digit(16);
        *byte = match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => (high * 16 + low) as u8,
            _ => return Err(malformed()),
        };
    }
    Ok(out)
}

impl PublicKey {
    /// As a subject public key info.
    fn spki(&self) -> Result<Vec<u8>> {
        let key = Ed25519VerifyingKey::from_bytes(&self.0).map_err(|_| Error::Malformed {
            what: "key",
            detail: "not a point of the curve".into(),
        })?;
        let mut buffer = [0; 64];
        key.to_spki_der(&mut buffer).map(<[u8]>::to_vec).map_err(|e| tls(format!("{e:?}")))
    }
}

/// A party's secret key. Prints nothing; export is [`Identity::expose_secret`].
pub struct Identity(Ed25519SigningKey);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

impl Identity {
    /// A fresh identity.
    ///
    /// # Errors
    /// [`Error::Tls`] when the provider refuses, which it has no reason to.
    pub fn random(rng: &mut impl CryptoRng) -> Result<Self> {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let key = Ed25519SigningKey::from_bytes(&seed).map_err(|e| tls(format!("{e:?}")));
        seed.zeroize();
        key.map(Self)
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_bytes())
    }

    /// The secret as 64 hexadecimal digits, to be kept in a file only its owner can read.
    #[must_use]
    pub fn expose_secret(&self) -> Zeroizing<String> {
        let digits = self.0.as_seed().iter().fold(String::with_capacity(64), |mut s, b| {
            for nibble in [b >> 4, b & 15] {
                s.extend(char::from_digit(nibble as u32, 16));
            }
            s
        });
        Zeroizing::new(digits)
    }

    /// What [`Identity::expose_secret`] gave.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn from_secret(text: &str) -> Result<Self> {
        let mut seed = parse_hex(text)?;
        let key = Ed25519SigningKey::from_bytes(&seed).map_err(|e| tls(format!("{e:?}")));
        seed.zeroize();
        key.map(Self)
    }

    fn certified(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>> {
        let mut buffer = Zeroizing::new([0; 128]);
        let der = self.0.to_pkcs8_der(&mut buffer[..]).map_err(|e| tls(format!("{e:?}")))?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.to_vec()));
        let key = provider.key_provider.load_private_key(der).map_err(tls)?;
        let public = CertificateDer::from(self.public_key().spki()?);
        Ok(Arc::new(CertifiedKey::new(vec![public], key)))
    }
}

/// Accepts one public key and nothing else.
#[derive(Debug)]
struct Pinned {
    spki: Vec<u8>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn check(&self, presented: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if presented.as_ref() == self.spki {
            return Ok(());
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
    }

    fn only_tls13() -> rustls::Error {
        rustls::Error::General("TLS 1.2 is not spoken here".into())
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        presented: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(presented).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        presented: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(presented).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(Self::only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The connection's state; the socket has a lock of its own, so that a long write does not keep the reader from decrypting.
struct Shared {
    connection: Mutex<Connection>,
    socket: Mutex<TcpStream>,
}

fn poisoned<T>(_: T) -> Error {
    tls("another thread of this party failed")
}

impl Shared {
    /// Sends what the connection has to say by `deadline`.
    fn flush(&self, socket: &TcpStream, deadline: Instant) -> Result<()> {
        let mut records = Vec::new();
        {
            let mut connection = self.connection.lock().map_err(poisoned)?;
            while connection.wants_write() {
                connection.write_tls(&mut records).map_err(tls)?;
            }
        }
        write_all(socket, &records, deadline)
    }
}

/// A stranger that connects and says nothing keeps the peer waiting no longer than this.
const HANDSHAKE: Duration = Duration::from_secs(10);

struct TlsSender(Arc<Shared>);

/// How long a party that leaves tries to say so to a peer that may not read.
const PARTING: Duration = Duration::from_millis(100);

impl Outgoing for TlsSender {
    fn send(&mut self, bytes: Vec<u8>, deadline: Instant) -> Result<()> {
        let socket = self.0.socket.lock().map_err(poisoned)?;
        for piece in bytes.chunks(1 << 20) {
            self.0.connection.lock().map_err(poisoned)?.writer().write_all(piece).map_err(tls)?; // e.g. the alert with which the peer has refused this party's key
            self.0.flush(&socket, deadline)?;
        }
        Ok(())
    }
}

impl Drop for TlsSender {
    fn drop(&mut self) {
        if let Ok(socket) = self.0.socket.lock() {
            if let Ok(mut connection) = self.0.connection.lock() {
                connection.send_close_notify();
            }
            let _ = self.0.flush(&socket, Instant::now() + PARTING);
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Decrypts what arrives and moves it to a queue, so that the peer can always send.
fn read(mut stream: TcpStream, shared: &Shared, queue: &SyncSender<Vec<u8>>) {
    let mut buffer = vec![0; READ];
    while let Ok(n) = stream.read(&mut buffer) {
        let mut arrived = &buffer[..n];
        if n == 0 {
            break;
        }
        while !arrived.is_empty() {
            let Ok(mut connection) = shared.connection.lock() else { return };
            if !matches!(connection.read_tls(&mut arrived), Ok(n) if n > 0) {
                return;
            }
            let Ok(state) = connection.process_new_packets() else { return };
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            if connection.reader().read_exact(&mut plain).is_err() {
                return;
            }
            drop(connection);
            if !plain.is_empty() && queue.send(plain).is_err() {
                return;
            }
        }
    }
}

/// Shakes hands within `limit`.
fn established(mut connection: Connection, stream: TcpStream, limit: Duration) -> Result<Channel> {
    let socket = |what| io(what, limit);
    stream.set_nodelay(true).map_err(socket("set TCP_NODELAY"))?;
    let mut until = Until { stream: &stream, deadline: Instant::now() + limit };
    while connection.is_handshaking() {
        connection.complete_io(&mut until).map_err(|e| match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Error::Timeout { what: "end of the handshake", after: limit }
            }
            _ => tls(format!("handshake: {e}")),
        })?;
    }
    stream.set_read_timeout(None).map_err(socket("clear the read timeout"))?;
    connection.set_buffer_limit(None);
    let reader = stream.try_clone().map_err(socket("clone a socket"))?;
    let (queue, received) = sync_channel(WAITING);
    // The peer may have spoken in the same packet that ended the handshake: no later read would bring that.
    let state = connection.process_new_packets().map_err(tls)?;
    let mut early = vec![0; state.plaintext_bytes_to_read()];
    connection.reader().read_exact(&mut early).map_err(tls)?;
    if !early.is_empty() {
        queue.send(early).map_err(|_| tls("the receiver is gone"))?;
    }
    let shared =
        Arc::new(Shared { connection: Mutex::new(connection), socket: Mutex::new(stream) });
    let for_reader = Arc::clone(&shared);
    std::thread::spawn(move || {
        read(reader, &for_reader, &queue);
    });
    Ok(Channel::new(Box::new(TlsSender(shared)), Box::new(Queue::new(received))))
}

impl Channel {
    /// Waits on `listener` for the peer that holds the secret of `peer`, and turns others away: who is not the peer, does not speak TLS 1.3
    /// or takes more than 10 s for its handshake.
    ///
    /// # Errors
    /// When the peer has not come by the deadline: the error of who came instead ([`Error::Tls`], [`Error::Timeout`],
    /// [`Error::Disconnected`]), or [`Error::Timeout`]; [`Error::Io`].
    pub fn tls_accept(
        listener: &TcpListener,
        identity: &Identity,
        peer: &PublicKey,
        deadline: Duration,
    ) -> Result<Self> {
        let provider = Arc::new(rustls_graviola::default_provider());
        let own = identity.certified(&provider)?;
        let pinned = Arc::new(Pinned { spki: peer.spki()?, provider: Arc::clone(&provider) });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(pinned)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own)));
        config.send_tls13_tickets = 0;
        let config = Arc::new(config);
        let start = Instant::now();
        let mut refused = None;
        loop {
            let left = deadline.saturating_sub(start.elapsed());
            let stream = match accept(listener, left) {
                Ok(stream) => stream,
                Err(Error::Timeout { what, .. }) => {
                    return Err(refused.unwrap_or(Error::Timeout { what, after: deadline }));
                }
                Err(e) => return Err(e),
            };
            let connection = ServerConnection::new(Arc::clone(&config)).map_err(tls)?;
            let left = deadline.saturating_sub(start.elapsed());
            match established(connection.into(), stream, left.min(HANDSHAKE)) {
                Ok(channel) => return Ok(channel),
                Err(e) => refused = Some(e),
            }
        }
    }

    /// Connects to the peer that holds the secret of `peer`.
    ///
    /// # Errors
    /// As [`Channel::tls_accept`].
    pub fn tls_connect(
        address: SocketAddr,
        identity: &Identity,
        peer: &PublicKey,
        deadline: Duration,
    ) -> Result<Self> {
        let provider = Arc::new(rustls_graviola::default_provider());
        let own = identity.certified(&provider)?;
        let pinned = Arc::new(Pinned { spki: peer.spki()?, provider: Arc::clone(&provider) });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .dangerous() // the verifier is ours: one pinned key
            .with_custom_certificate_verifier(pinned)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(own)));
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        let name = ServerName::IpAddress(address.ip().into());
        let connection = ClientConnection::new(Arc::new(config), name).map_err(tls)?;
        let start = Instant::now();
        let stream = connect(address, deadline)?;
        established(connection.into(), stream, deadline.saturating_sub(start.elapsed()))
    }
}
