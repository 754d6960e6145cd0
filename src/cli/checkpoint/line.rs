//! What is known of a checkpoint without opening it.

use indicatif::HumanBytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::catalog::{Resource, Shown};
use crate::cli::table;
use crate::error::{Error, ErrorKind, Result};
use crate::notebook::state::{Execution, Variable};

/// How a checkpoint came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    /// Somebody saved it.
    Manual,
    /// A cell was run, and each run is saved.
    CellRun,
    /// Another one was applied.
    Rollback,
}

/// What the catalogue keeps of a checkpoint beside its name, and `checkpoint.json` tells of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) operation: Operation,
    /// The notebook, below the project; none where it was gone.
    pub(super) notebook: Option<String>,
    /// Whether the project's files are in it.
    pub(super) data: bool,
    /// How many files the project had.
    pub(super) files: u64,
    /// Their length together, in bytes.
    pub(super) bytes: u64,
    /// How many cells the notebook has; none where it couldn't be read.
    pub(super) cells: Option<usize>,
    /// How many pieces of output its cells show.
    pub(super) outputs: Option<usize>,
    pub(super) kernel: Option<String>,
    /// The cell of the kernel that ran last, or that saved it; none without variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) execution: Option<Execution>,
    /// Words that somebody gave it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) tags: Vec<String>,
    /// The variables of the notebook's kernel; none where they weren't saved.
    #[serde(default)]
    pub(super) variables: Option<Vec<Variable>>,
    /// The checkpoint that a rollback went back to, or that a project was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) of: Option<String>,
    /// The checkpoint that was about to be applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<String>,
}

/// A checkpoint as it is listed and shown, and as its `checkpoint.json` has it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    pub(super) id: String,
    /// The name it is pinned under.
    pub(super) name: Option<String>,
    pub(super) creator: String,
    pub(super) created: Timestamp,
    #[serde(flatten)]
    pub(super) spec: Spec,
}

impl Line {
    pub(super) fn new(id: String, resource: &Resource) -> Result<Self> {
        let spec = serde_json::from_value(resource.spec.clone()).map_err(|error| {
            Error::new(ErrorKind::Damaged, format!("the catalogue's entry of checkpoint {id}"))
                .with_source(error)
        })?;
        Ok(Self {
            id,
            name: resource.pinned_name().map(str::to_owned),
            creator: resource.creator.clone(),
            created: resource.created,
            spec,
        })
    }

    /// How many variables it has, if those were saved.
    pub(super) fn variables(&self) -> Option<usize> {
        let variables = self.spec.variables.as_ref()?;
        Some(variables.iter().filter(|variable| variable.left_out.is_none()).count())
    }

    pub(super) fn of(shown: &Shown) -> Result<Self> {
        Self::new(shown.name.clone(), &shown.resource)
    }
}

/// A variable as a checkpoint shows it.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Described<'a>(pub(super) &'a Variable);

impl table::Row for Described<'_> {
    const HEADER: &'static [&'static str] = &["VARIABLE", "TYPE", "SIZE", "SHAPE", "LEFT OUT"];

    fn cells(&self) -> Vec<String> {
        let Variable { name, kind, size, shape, left_out, parts_left_out, .. } = self.0;
        let dash = || "-".to_owned();
        let lens = |shape: &Vec<u64>| {
            shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ")
        };
        let parts = || if parts_left_out.is_empty() { dash() } else { parts_left_out.join("; ") };
        vec![
            name.clone(),
            kind.clone(),
            size.map_or_else(dash, |size| HumanBytes(size).to_string()),
            shape.as_ref().filter(|shape| !shape.is_empty()).map_or_else(dash, lens),
            left_out.clone().unwrap_or_else(parts),
        ]
    }
}

impl table::Row for Line {
    const HEADER: &'static [&'static str] = &[
        "ID",
        "NAME",
        "OPERATION",
        "NOTEBOOK",
        "CELLS",
        "VARIABLES",
        "FILES",
        "SIZE",
        "CREATOR",
        "CREATED",
    ];

    fn cells(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        let spec = &self.spec;
        let operation = match (&spec.of, &spec.before, spec.operation) {
            (Some(of), _, Operation::Rollback) => format!("rollback to {of}"),
            (Some(of), ..) => format!("from {of}"),
            (None, Some(before), _) => format!("before {before}"),
            (None, None, Operation::CellRun) => "cell run".to_owned(),
            (None, None, _) => "manual".to_owned(),
        };
        let variables = self.variables().map(|count| count.to_string());
        vec![
            self.id.clone(),
            self.name.clone().unwrap_or_else(dash),
            operation,
            spec.notebook.clone().unwrap_or_else(dash),
            spec.cells.map_or_else(dash, |cells| cells.to_string()),
            variables.unwrap_or_else(dash),
            spec.files.to_string(),
            HumanBytes(spec.bytes).to_string(),
            self.creator.clone(),
            table::time(self.created),
        ]
    }
}
