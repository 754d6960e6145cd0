//! What others may learn of a mount: its socket, and its metrics over HTTP.

use std::sync::Arc;

use super::super::{Context, table};
use crate::config::Serving;
use crate::control::{About, Exporter, Options, Socket};
use crate::error::Result;
use crate::fuse::Session;
use crate::metrics::Metrics;

/// The ways to observe a mount, which end when this is dropped.
pub(super) struct Observed {
    exporter: Option<Exporter>,
    socket: Option<Socket>,
}

impl Observed {
    /// Takes the address for metrics, so that one that can't be had is known before mounting.
    ///
    /// # Errors
    /// Those of [`Exporter::bind`].
    pub(super) async fn prepare(serving: &Serving) -> Result<Self> {
        let exporter = match serving.metrics {
            Some(address) => Some(Exporter::bind(address).await?),
            None => None,
        };
        Ok(Self { exporter, socket: None })
    }

    /// Answers from now on.
    pub(super) fn start(
        &mut self,
        context: &Context,
        serving: &Serving,
        project: &str,
        session: &Session,
        metrics: &Arc<Metrics>,
    ) {
        let address = self.exporter.as_ref().map(Exporter::address);
        let about = About {
            project: project.to_owned(),
            mount_point: session.mount_point().to_string_lossy().into_owned(),
            home: context.config.home.to_string_lossy().into_owned(),
            pid: std::process::id(),
            since: jiff::Timestamp::now(),
            options: Options::of(serving, address),
        };
        if let Some(exporter) = &mut self.exporter {
            exporter.serve(about.clone(), Arc::clone(metrics));
        }
        let dirs = context.config.socket_dirs();
        match Socket::serve(&dirs, session.device(), about, Arc::clone(metrics)) {
            Ok(socket) => self.socket = Some(socket),
            // It only tells: a mount without it is as good.
            Err(error) => tracing::warn!(?error, "`atelier status` won't know this mount"),
        }
    }

    /// Tells the user where the metrics are, since port 0 may have been asked for.
    pub(super) fn say(&self) {
        if let Some(exporter) = &self.exporter {
            table::say(format!("its metrics are at http://{}/metrics", exporter.address()));
        }
    }
}
