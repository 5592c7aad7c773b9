//! SIGTERM and SIGINT. The first asks for a drain; the second ends the process at once, with the
//! exit code that a shell expects of it.

use std::io;
use std::io::Write;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a drain may take: under the 30 s after which Kubernetes and systemd kill.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(25);

/// Asked to end: by a signal, or by [`Shutdown::begin`].
#[derive(Debug, Clone)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Watches the signals on `runtime` from now on.
    pub fn on_signals(runtime: &Handle) -> io::Result<Self> {
        let _inside = runtime.enter();
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        let token = CancellationToken::new();
        runtime.spawn(watch(interrupt, terminate, token.clone()));
        Ok(Self(token))
    }

    pub fn begin(&self) {
        self.0.cancel();
    }

    pub fn begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when the process is asked to end. Cancel safe.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }

    pub fn token(&self) -> CancellationToken {
        self.0.clone()
    }
}

async fn watch(mut interrupt: Signal, mut terminate: Signal, drain: CancellationToken) {
    let mut asked = false;
    loop {
        let (name, code) = tokio::select! {
            Some(()) = interrupt.recv() => ("SIGINT", 130),
            Some(()) = terminate.recv() => ("SIGTERM", 143),
            else => return,
        };
        if asked {
            let _ = writeln!(
                io::stderr(),
                "\nmillstream: {name} a second time: ending at once; what was not committed is \
                 done again at the next start"
            );
            std::process::exit(code);
        }
        asked = true;
        tracing::info!(
            signal = name,
            deadline_s = DRAIN_DEADLINE.as_secs(),
            "draining: what is in flight is finished and committed; a second signal ends at once"
        );
        drain.cancel();
    }
}
