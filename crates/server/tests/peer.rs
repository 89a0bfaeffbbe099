//! Two parties over gRPC: the suite of every channel, and callers who come too late.

use cipherform_client::connect_peer;
use cipherform_mpc::{Error, conformance, simulate};
use cipherform_server::accept_peer;
use std::net::TcpListener;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn grpc_is_a_channel() {
    conformance::check(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        simulate(|| accept_peer(&listener, LONG), || connect_peer(address, LONG))
            .map(<[_; 2]>::from)
    })
    .unwrap();
}

#[test]
fn nobody_and_somebody_else_are_typed_errors_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    assert!(matches!(accept_peer(&listener, SHORT), Err(Error::Timeout { .. })));
    drop(listener);
    assert!(matches!(connect_peer(address, SHORT), Err(Error::Timeout { .. })));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ends = simulate(|| accept_peer(&listener, LONG), || connect_peer(address, LONG));
    let late = connect_peer(address, SHORT);
    assert!(matches!(late, Err(Error::Timeout { .. } | Error::Io { .. })), "{late:?}");
    ends.unwrap();
}
