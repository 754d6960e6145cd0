//! `atelier gc`: removes what no version needs from the content store.

use std::process::ExitCode;

use clap::Args;
use indicatif::HumanBytes;
use serde::Serialize;

use super::{Context, draft, table};
use crate::catalog::collect::Amount;
use crate::config::Span;
use crate::error::Result;
use crate::snapshot::collect::{self, Collected, Plan};
use crate::workspace::Workspace;

/// Remove what no dataset and no checkpoint needs from the store
///
/// It runs beside mounts and commands, also those of other hosts: what is open or being made
/// stays. What nobody needs is kept for a while, so that whoever lost his connection finds it when
/// he comes back; what is left of a pack that is mostly unused is written anew.
#[derive(Debug, Args)]
pub struct Gc {
    /// Only tell what it would do
    #[arg(long)]
    dry_run: bool,

    /// How long what nobody needs is kept
    #[arg(long, env = "ATELIER_GC_GRACE", value_name = "TIME", default_value = "1h")]
    grace: Span,

    /// Write a pack anew if less of it is used than so many percent; 0 for never
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    compact_below: u8,
}

/// What was done, as it is shown.
#[derive(Debug, Serialize)]
struct Done {
    dry_run: bool,
    freed_objects: u64,
    freed_bytes: u64,
    waiting_objects: u64,
    waiting_bytes: u64,
    rewritten_packs: u64,
    rewritten_dead_bytes: u64,
    kept_objects: u64,
    kept_bytes: u64,
}

impl table::Row for Done {
    const HEADER: &'static [&'static str] = &["FREED", "WAITING", "REWRITTEN", "KEPT"];

    fn cells(&self) -> Vec<String> {
        let cell = |objects, bytes| format!("{objects} objects, {}", HumanBytes(bytes));
        let dead = HumanBytes(self.rewritten_dead_bytes);
        vec![
            cell(self.freed_objects, self.freed_bytes),
            cell(self.waiting_objects, self.waiting_bytes),
            format!("{} packs, {dead} of them unused", self.rewritten_packs),
            cell(self.kept_objects, self.kept_bytes),
        ]
    }
}

impl Gc {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let workspace = Workspace::open(&context.config).await?;
        if !self.dry_run {
            draft::clear(&context.config);
        }
        let Span(grace) = self.grace;
        let plan = Plan { grace, lease: context.config.lease, compact_below: self.compact_below };
        let (catalog, packs) = (&workspace.catalog, &workspace.packs);
        let done = if self.dry_run {
            collect::preview(catalog, packs, &plan).await?
        } else {
            collect::collect(catalog, packs, &plan).await?
        };
        let done = self.shown(&done);
        if context.json {
            table::show(&done, true)?;
        } else {
            self.say(&done);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn shown(&self, done: &Collected) -> Done {
        let Collected { compacted, freed, waiting, kept } = *done;
        let Amount { objects: kept_objects, bytes: kept_bytes } = kept;
        Done {
            dry_run: self.dry_run,
            freed_objects: freed.objects,
            freed_bytes: freed.bytes,
            waiting_objects: waiting.objects,
            waiting_bytes: waiting.bytes,
            rewritten_packs: compacted.packs,
            rewritten_dead_bytes: compacted.dead,
            kept_objects,
            kept_bytes,
        }
    }

    fn say(&self, done: &Done) {
        let (freed, waiting) = (HumanBytes(done.freed_bytes), HumanBytes(done.waiting_bytes));
        let verb = if self.dry_run { "would be freed" } else { "freed" };
        table::say(format!("{verb}: {} objects, {freed}", done.freed_objects));
        if done.rewritten_packs > 0 {
            let verb = if self.dry_run { "would be written anew" } else { "written anew" };
            let dead = HumanBytes(done.rewritten_dead_bytes);
            table::say(format!("{verb}: {} packs, {dead} of them unused", done.rewritten_packs));
        }
        if done.waiting_objects > 0 {
            table::say(format!(
                "unused, to be freed when nobody can come back for it (--grace): {} objects, \
                 {waiting}",
                done.waiting_objects
            ));
        }
        table::say(format!("kept: {} objects, {}", done.kept_objects, HumanBytes(done.kept_bytes)));
    }
}
