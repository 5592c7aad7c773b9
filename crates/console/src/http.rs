//! The pages for machines.
//!
//! | path | what |
//! |---|---|
//! | `/` | this list |
//! | `/metrics` | Prometheus's text format |
//! | `/health/live` | 200 while the process can answer: a pipeline that holds is live, since a restart would not help it |
//! | `/health/ready` | 200 when every partition runs or has finished; 503 with the reasons while one starts, restarts, holds or drains, or waits for a store |
//! | `/registry/…` | the schema registry; `schema.registry.url` is `http://HOST:PORT/registry` |
//!
//! For clients that want the registry at the root of an address it may have one of its own.

use crate::{Collectors, Error, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use millstream_engine::{Engine, PartitionState};
use millstream_registry::Registry;
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const INDEX: &str = "millstream

/metrics        what it counts and times, for Prometheus
/health/live    200 while the process answers
/health/ready   200 when every pipeline does its work; 503 with the reasons when not
/registry       the schema registry (Confluent's interface)
";

/// Where to listen.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    pub listen: SocketAddr,
    /// An address where the schema registry is at the root.
    pub registry_listen: Option<SocketAddr>,
}

/// Bound addresses, not answering yet.
#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
    registry: Option<TcpListener>,
}

#[derive(Clone)]
struct Pages {
    collectors: Collectors,
    engine: Engine,
}

impl Http {
    pub async fn bind(options: &HttpOptions) -> Result<Self> {
        let listener = bind(options.listen, "--listen").await?;
        let registry = match options.registry_listen {
            Some(address) => Some(bind(address, "--registry-listen").await?),
            None => None,
        };
        Ok(Self { listener, registry })
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    pub fn registry_address(&self) -> Option<SocketAddr> {
        self.registry.as_ref()?.local_addr().ok()
    }

    /// Answers until `stop`, then finishes what was begun.
    pub async fn serve(
        self,
        collectors: Collectors,
        engine: Engine,
        registry: Registry,
        stop: CancellationToken,
    ) {
        let router = Router::new()
            .route("/", get(async || INDEX))
            .route("/metrics", get(metrics))
            .route("/health/live", get(async || Json(json!({"live": true}))))
            .route("/health/ready", get(ready))
            .with_state(Pages { collectors, engine })
            .nest("/registry", millstream_registry::router(registry.clone()));
        let main = answer(self.listener, router, stop.clone());
        match self.registry {
            Some(listener) => {
                let alone = answer(listener, millstream_registry::router(registry), stop);
                tokio::join!(main, alone);
            }
            None => main.await,
        }
    }
}

async fn answer(listener: TcpListener, router: Router, stop: CancellationToken) {
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the HTTP server ended");
    }
}

async fn bind(address: SocketAddr, option: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        // Another address is the user's to choose.
        let wrong = |sentence: String| Error::mistake(sentence);
        match error.kind() {
            ErrorKind::AddrInUse => wrong(format!(
                "port {} of {} is in use by another process: choose another with {option} \
                 ADDRESS:PORT",
                address.port(),
                address.ip()
            )),
            ErrorKind::PermissionDenied => wrong(format!(
                "this user may not listen on {address}: choose a port above 1023 with {option}"
            )),
            ErrorKind::AddrNotAvailable => wrong(format!(
                "{} is no address of this machine: choose another with {option}",
                address.ip()
            )),
            _ => Error::failure(format!("cannot listen on {address}: {error}")),
        }
    })
}

async fn metrics(State(pages): State<Pages>) -> Response {
    pages.engine.refresh_metrics();
    match tokio::task::spawn_blocking(move || pages.collectors.text()).await {
        Ok(Ok(text)) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
                .into_response()
        }
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.message).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(pages): State<Pages>) -> (StatusCode, Json<Value>) {
    let mut reasons = Vec::new();
    let mut pipelines = Vec::new();
    reasons.extend(pages.engine.awaited().map(|reason| json!({"reason": reason})));
    for report in pages.engine.reports() {
        for partition in &report.partitions {
            let works =
                matches!(partition.state, PartitionState::Running | PartitionState::Finished);
            if !works {
                reasons.push(json!({
                    "pipeline": report.name,
                    "partition": partition.partition,
                    "state": partition.state,
                    "reason": partition.reason,
                }));
            }
        }
        // What it waits for may pass by itself, but no row is done meanwhile.
        reasons.extend(
            report
                .waits_for
                .iter()
                .filter(|_| report.partitions.iter().all(|p| p.reason.is_none()))
                .map(|reason| json!({"pipeline": report.name, "reason": reason})),
        );
        pipelines.push(json!({"name": report.name, "state": report.state}));
    }
    let status = match reasons.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({"ready": reasons.is_empty(), "reasons": reasons, "pipelines": pipelines});
    (status, Json(body))
}
