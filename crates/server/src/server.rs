//! Starting and stopping.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::jobs::Jobs;
use crate::key_store::KeyStore;
use crate::registry::Registry;
use crate::services::{Shared, router};
use crate::uploads::{Uploads, lock};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;

/// How often expired uploads, key sets and jobs are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// A server about to start.
#[derive(Debug)]
pub struct Server;

/// A running server, which stops when the handle is dropped.
#[derive(Debug)]
pub struct ServerHandle {
    address: SocketAddr,
    grace: Duration,
    jobs: Arc<Jobs>,
    stop: Option<oneshot::Sender<()>>,
    /// Yields when the network thread has ended.
    ended: Mutex<mpsc::Receiver<()>>,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").finish_non_exhaustive()
    }
}

impl Server {
    /// Starts serving the models of `registry` on threads of its own: one a device for the jobs, a few for the network. Returns as
    /// soon as the server accepts connections; may be called with or without an async runtime around it.
    ///
    /// # Errors
    /// [`Error::Insecure`] for a toy parameter set that the config does not allow; [`Error::Listen`];
    /// [`Error::Threads`]; [`Error::KeyMemory`]; [`Error::Model`] for a device that fails.
    pub fn start(config: &Config, registry: Registry) -> Result<ServerHandle> {
        if !config.allow_insecure {
            registry.check_secure()?;
        }
        registry.limit_keys(config.limits.resident_key_bytes)?;
        let listen = config.listen;
        let bound = std::net::TcpListener::bind(listen).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        });
        let (address, listener) =
            bound.map_err(|source| Error::Listen { address: listen, source })?;

        let (limits, devices) = (config.limits.clone(), registry.devices().len());
        let jobs = Arc::new(Jobs::new(limits.clone()));
        let shared = Arc::new(Shared {
            config: config.clone(),
            registry,
            uploads: Uploads::new(limits.clone()),
            keys: KeyStore::new(limits),
            jobs: jobs.clone(),
        });

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("cipherform-network")
            .enable_all()
            .build()
            .map_err(Error::Threads)?;
        for device in 0..devices {
            let worker = jobs.clone();
            thread::Builder::new()
                .name(format!("cipherform-worker-{device}"))
                .spawn(move || worker.work(device))
                .map_err(Error::Threads)?;
        }

        let grace = Duration::from_millis(config.grace_ms);
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = mpsc::channel();
        thread::Builder::new()
            .name("cipherform-server".into())
            .spawn(move || {
                if let Err(error) = runtime.block_on(serve(listener, shared, stopped, grace)) {
                    tracing::error!(%error, "the server ended");
                }
                // Connection tasks outlive the future that accepted them: only the runtime's end closes them all.
                runtime.shutdown_timeout(Duration::from_millis(100));
                let _ = end.send(());
            })
            .map_err(Error::Threads)?;
        tracing::info!(%address, "serving");
        Ok(ServerHandle { address, grace, jobs, stop: Some(stop), ended: Mutex::new(ended) })
    }
}

/// Serves until `stopped` resolves, and at most `grace` longer.
async fn serve(
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
    stopped: oneshot::Receiver<()>,
    grace: Duration,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let incoming = TcpIncoming::from(TcpListener::from_std(listener)?).with_nodelay(Some(true));
    let sweeper = shared.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            sweeper.sweep();
        }
    });
    // Windows are memory that a client can pin: enough for two chunks in flight, no more. The reset limit is the answer
    // to rapid-reset floods.
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(8 << 20)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .max_concurrent_streams(64)
        .concurrency_limit_per_connection(64)
        .load_shed(true)
        .http2_max_pending_accept_reset_streams(Some(32))
        .http2_max_header_list_size(16 << 10);

    let (announce, announced) = oneshot::channel();
    let signal = async move {
        // A dropped sender is a dropped handle: stop as well.
        let _ = stopped.await;
        let _ = announce.send(());
    };
    let serving = router(server, &shared).serve_with_incoming_shutdown(incoming, signal);
    let overdue = async move {
        let _ = announced.await;
        tokio::time::sleep(grace).await;
    };
    // The library waits for every connection however long it idles, so the wait has an end of its own.
    tokio::select! {
        result = serving => Ok(result?),
        () = overdue => Ok(()),
    }
}

impl ServerHandle {
    /// The address it listens on, with the port that the system chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The URL for a client on this machine.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops: no new jobs, an end of the running one after its operator, an end of the connections. Blocks for at most
    /// twice the grace of the config and a second.
    pub fn shutdown(mut self) {
        self.jobs.stop(self.grace);
        self.stop.take();
        let _ = lock(&self.ended).recv_timeout(self.grace + Duration::from_secs(1));
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.jobs.stop(Duration::ZERO);
        self.stop.take();
    }
}
