//! Two parties over TLS: pinned keys, and what the handshake must not swallow.

use super::gates::fixed_rng;
use super::wire::{LONG, Pair, SHORT};
use crate::*;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

#[test]
fn tls_pins_both_keys() {
    let pair = Pair::new(0.5);
    let mut rng = fixed_rng(60);
    let [server_id, client_id, stranger] =
        std::array::from_fn(|_| Identity::random(&mut rng).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let [s, c] = pair.deal(6);
    let (server, client) = simulate(
        || {
            let channel =
                Channel::tls_accept(&listener, &server_id, &client_id.public_key(), LONG)?;
            pair.party(Role::Server, s, channel, LONG)
        },
        || {
            let channel = Channel::tls_connect(address, &client_id, &server_id.public_key(), LONG)?;
            pair.party(Role::Client, c, channel, LONG)
        },
    )
    .unwrap();
    assert_eq!((server.sent, server.received), (client.received, client.sent));

    // A stranger on either side. The client may finish its handshake before the server has looked at its key; then its first
    // receive fails.
    for (server_is, client_is) in [(&stranger, &client_id), (&server_id, &stranger)] {
        let [s, c] = pair.deal(7);
        let (server, client) = std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                let peer = client_id.public_key();
                let channel = Channel::tls_accept(&listener, server_is, &peer, SHORT)?;
                pair.party(Role::Server, s, channel, SHORT)
            });
            let client = Channel::tls_connect(address, client_is, &server_id.public_key(), SHORT)
                .and_then(|channel| pair.party(Role::Client, c, channel, SHORT));
            (server.join().unwrap(), client)
        });
        assert!(matches!(server, Err(Error::Tls { .. })), "{server:?}");
        assert!(
            matches!(client, Err(Error::Tls { .. } | Error::Disconnected { .. })),
            "{client:?}"
        );
    }
    // Plain TCP towards TLS.
    let (server, _) = std::thread::scope(|scope| {
        let server = scope
            .spawn(|| Channel::tls_accept(&listener, &server_id, &client_id.public_key(), SHORT));
        let plain = Channel::tcp_connect(address, LONG).unwrap();
        let mut link = Link::new(plain, Role::Client, SHORT);
        let sent = link.exchange(1, &[0; 100], 1);
        (server.join().unwrap(), sent.is_err())
    });
    assert!(matches!(server, Err(Error::Tls { .. })));

    conformance::check(|| {
        let ends = simulate(
            || Channel::tls_accept(&listener, &server_id, &client_id.public_key(), LONG),
            || Channel::tls_connect(address, &client_id, &server_id.public_key(), LONG),
        );
        ends.map(<[Channel; 2]>::from)
    })
    .unwrap();
}

/// Passes on what one side says, in packets of whatever arrived within a pause: what a busy machine or a network does by chance.
fn in_lumps(mut from: TcpStream, mut to: TcpStream) {
    use std::io::{Read, Write};
    let mut lump = vec![0; 1 << 20];
    loop {
        let Ok(n) = from.read(&mut lump[..1]) else { return };
        if n == 0 {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
        from.set_nonblocking(true).unwrap();
        let more = from.read(&mut lump[1..]).unwrap_or(0);
        from.set_nonblocking(false).unwrap();
        if to.write_all(&lump[..=more]).is_err() {
            return;
        }
    }
}

#[test]
fn what_comes_in_one_packet_with_the_end_of_the_handshake_is_heard() {
    let mut rng = fixed_rng(62);
    let [server_id, client_id] = std::array::from_fn(|_| Identity::random(&mut rng).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, relay_address) = (listener.local_addr().unwrap(), relay.local_addr().unwrap());
    std::thread::spawn(move || {
        let (client, _) = relay.accept().unwrap();
        let server = TcpStream::connect(address).unwrap();
        let (back, forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || in_lumps(back, forth));
        in_lumps(client, server);
    });
    // The client's last handshake message and its first frame arrive at the server together; the server has not spoken yet.
    let (heard, ()) = simulate(
        || {
            let channel =
                Channel::tls_accept(&listener, &server_id, &client_id.public_key(), LONG)?;
            Link::new(channel, Role::Server, LONG).exchange(1, &[], 3)
        },
        || {
            let peer = server_id.public_key();
            let channel = Channel::tls_connect(relay_address, &client_id, &peer, LONG)?;
            let mut link = Link::new(channel, Role::Client, LONG);
            link.exchange(1, &[7, 8, 9], 0)?;
            std::thread::sleep(Duration::from_millis(500)); // still there when the server hears it
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(heard, [7, 8, 9]);
}

#[test]
fn a_stranger_who_dawdles_neither_outlasts_the_deadline_nor_takes_the_peers_place() {
    use std::io::Write;
    let mut rng = fixed_rng(63);
    let [server_id, client_id] = std::array::from_fn(|_| Identity::random(&mut rng).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // A record's header, then a byte from time to time.
    let stranger = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&[0x16, 3, 1, 2, 0]).unwrap();
        while stream.write_all(&[1]).is_ok() {
            std::thread::sleep(SHORT / 10);
        }
    });
    std::thread::sleep(SHORT / 10);
    let start = Instant::now();
    let result = Channel::tls_accept(&listener, &server_id, &client_id.public_key(), SHORT);
    assert!(matches!(result, Err(Error::Timeout { .. })), "{result:?}");
    assert!(start.elapsed() < 3 * SHORT, "{:?}", start.elapsed());
    stranger.join().unwrap();

    // Who is turned away at once does not cost the peer its turn.
    let mut rude = TcpStream::connect(address).unwrap();
    rude.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let (heard, ()) = simulate(
        || {
            let peer = client_id.public_key();
            let channel = Channel::tls_accept(&listener, &server_id, &peer, LONG)?;
            Link::new(channel, Role::Server, LONG).exchange(1, &[], 3)
        },
        || {
            let peer = server_id.public_key();
            let channel = Channel::tls_connect(address, &client_id, &peer, LONG)?;
            let mut link = Link::new(channel, Role::Client, LONG);
            link.exchange(1, &[7, 8, 9], 0)?;
            std::thread::sleep(SHORT); // still there when the server hears it
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(heard, [7, 8, 9]);
}

#[test]
fn keys_are_text() {
    let identity = Identity::random(&mut fixed_rng(61)).unwrap();
    let again = Identity::from_secret(&identity.expose_secret()).unwrap();
    assert_eq!(again.public_key(), identity.public_key());
    assert_eq!(
        identity.public_key().to_string().parse::<PublicKey>().unwrap(),
        identity.public_key()
    );
    assert_eq!(format!("{identity:?}"), "Identity(..)");
    // RFC 8032, section 7.1, test 1.
    let secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    assert_eq!(Identity::from_secret(secret).unwrap().public_key().to_string(), public);
    assert!("d75a".parse::<PublicKey>().is_err() && Identity::from_secret("zz").is_err());
}
