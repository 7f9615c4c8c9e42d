//! Reads `samovar.toml`, with a precise error for everything that is invalid.

pub mod component;
mod reader;
pub mod render;
pub mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use samovar_types::bundle::{
    GraphBackend, GraphTarget, Isolation, MAX_EXAMPLE_BYTES, MAX_FILES, MAX_GRAPHS, MAX_HOSTS,
    MAX_SECRETS, MAX_VARIABLES, check_value,
};
use samovar_types::names;
use samovar_types::settings::{AutoscalingSettings, Batch, GRAPH_THREADS, InvalidSetting, Limits};

use reader::{Document, Field, Table};

/// The file name of a manifest.
pub const FILE_NAME: &str = "samovar.toml";
/// Largest manifest, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file could not be read.
    #[error("{}: {source}", file.display())]
    Read {
        file: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// There is nothing to push at the given path.
    #[error("{}: {problem}", path.display())]
    NotAProject {
        path: PathBuf,
        /// The problem and what to do.
        problem: String,
    },
    /// The file is not TOML.
    #[error("{}:{line}: {message}", file.display())]
    Syntax {
        file: PathBuf,
        /// Line of the error, from 1.
        line: usize,
        /// Error of the parser.
        message: String,
    },
    /// A key, or a file that it names, is invalid.
    #[error("{}:{line}: `{key}`: {problem}", file.display())]
    Key {
        file: PathBuf,
        /// Line of the key, from 1.
        line: usize,
        /// The key, dotted from the top.
        key: String,
        /// What was found and what was expected.
        problem: String,
    },
}

/// A value of a manifest and its position, for later errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    pub value: T,
    pub key: String,
    /// Its line, from 1; 0 if it does not come from a manifest.
    pub line: usize,
}

/// A graph of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestGraph {
    /// Path of the model file below the manifest's folder.
    pub file: Located<String>,
    /// Backend that runs the graph.
    pub backend: GraphBackend,
    /// Device that the graph runs on.
    pub target: GraphTarget,
    /// Maximum number of threads of one run.
    pub threads: u32,
    /// How calls are joined into one run.
    pub batch: Option<Batch>,
}

/// The component of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Component {
    /// The model's own component, relative to the manifest's folder. It may be outside that folder, in a workspace's target folder:
    /// the path is not visible in a sandbox.
    File(Located<PathBuf>),
    /// The built-in component, which serves the graphs by the Open Inference Protocol.
    OpenInference,
}

/// A parsed manifest. The files that it names are not checked yet, because `build` may still have to create them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The manifest's file, or the component or model file that was given instead of a manifest.
    pub file: PathBuf,
    /// The folder that paths are relative to; never an empty path.
    pub root: PathBuf,
    /// Name of the model.
    pub name: String,
    /// Shell command that builds the component.
    pub build: Option<String>,
    pub component: Component,
    /// Files and folders, with everything in them, for the sandbox; below the manifest's folder.
    pub files: Vec<Located<String>>,
    pub graphs: BTreeMap<String, ManifestGraph>,
    pub secrets: BTreeSet<String>,
    pub environment_variables: BTreeMap<String, String>,
    /// `HOST:PORT` of the hosts that the component may call.
    pub allow: BTreeSet<String>,
    /// Whether `init` runs once, when the bundle is pushed, and replicas start from a copy of the memory after it.
    pub snapshot: bool,
    /// An example body for `POST /predict`.
    pub example: Option<String>,
    /// Whether the component may load graphs from bytes.
    pub load_graphs_from_bytes: bool,
    /// Which deployments its graphs share a process with.
    pub isolation: Isolation,
    /// Limits of one replica and of one request.
    pub limits: Limits,
    pub autoscaling: AutoscalingSettings,
}

impl Manifest {
    /// Reads the manifest for a path from a user: a folder, a manifest, or a component or model file without a manifest.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        let not_a_project = |problem: String| ManifestError::NotAProject {
            path: path.to_owned(),
            problem,
        };
        let metadata = std::fs::metadata(path).map_err(|source| ManifestError::Read {
            file: path.to_owned(),
            source,
        })?;
        if metadata.is_dir() {
            let file = path.join(FILE_NAME);
            return match file.try_exists() {
                Ok(false) => Err(not_a_project(format!(
                    "the folder has no {FILE_NAME}: write one, start with `samovar init`, or push a component's .wasm or a model's .onnx file"
                ))),
                _ => Self::read(&file),
            };
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Self::read(path),
            Some("wasm") => Self::for_component(path),
            Some("onnx") => Self::for_graph(path),
            _ => Err(not_a_project(format!(
                "found a file of another kind, wanted a folder with a {FILE_NAME}, a manifest (.toml), a component (.wasm) or an ONNX model (.onnx)"
            ))),
        }
    }

    /// Reads a manifest's file.
    pub fn read(file: &Path) -> Result<Self, ManifestError> {
        let failed = |source| ManifestError::Read {
            file: file.to_owned(),
            source,
        };
        let mut text = String::new();
        let opened = File::open(file).map_err(failed)?;
        // The metadata's size would not do: what is read may be a pipe or still grow.
        opened
            .take(MAX_MANIFEST_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        if text.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(ManifestError::NotAProject {
                path: file.to_owned(),
                problem: format!(
                    "the manifest has more than {MAX_MANIFEST_BYTES} bytes, which is the limit"
                ),
            });
        }
        Self::parse(file, &text)
    }

    /// Parses a manifest's text. `file` is used in messages, and paths are relative to its folder.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ManifestError> {
        let mut top = Document { file, text }.parse()?;
        top.allow(&[
            "name",
            "build",
            "component",
            "files",
            "secrets",
            "graphs",
            "limits",
            "environment_variables",
            "network",
            "autoscaling",
            "snapshot",
            "example",
            "load_graphs_from_bytes",
            "isolation",
        ])?;
        let name = top
            .require("name", "the model's name")?
            .checked(names::check_name)?;
        let build = top.take("build").map(|field| build(&field)).transpose()?;
        let graphs = graphs(&mut top)?;
        let component = match top.take("component") {
            None if graphs.is_empty() => Some(top.require(
                "component",
                "the path of the WebAssembly component; or use [graphs.NAME] with an ONNX model, which needs no component",
            )?),
            given => given,
        };
        let component = match component {
            Some(field) => Component::File(component_path(&field)?),
            None => Component::OpenInference,
        };
        Ok(Self {
            root: folder_of(file),
            file: file.to_owned(),
            name,
            build,
            component,
            files: files(&mut top)?,
            graphs,
            secrets: secrets(&mut top)?,
            environment_variables: environment_variables(&mut top)?,
            allow: allow(&mut top)?,
            snapshot: truth(&mut top, "snapshot")?,
            load_graphs_from_bytes: truth(&mut top, "load_graphs_from_bytes")?,
            isolation: isolation(&mut top)?,
            example: top
                .take("example")
                .map(|field| example(&field))
                .transpose()?,
            limits: limits(&mut top)?,
            autoscaling: autoscaling(&mut top)?,
        })
    }

    /// Changes the name of the model. The built-in component uses that name in its addresses.
    pub fn serve_as(&mut self, model: Option<&str>) {
        if let (Component::OpenInference, Some(model)) = (&self.component, model) {
            model.clone_into(&mut self.name);
        }
    }

    /// The manifest of a component without one: the name comes from the file's name, all other values are defaults.
    pub fn for_component(path: &Path) -> Result<Self, ManifestError> {
        let component =
            |file_name: &OsStr| Component::File(unlocated("component", PathBuf::from(file_name)));
        Self::for_file(path, component)
    }

    /// The manifest of an ONNX model without one: the model is the only graph, all else as for a component.
    pub fn for_graph(path: &Path) -> Result<Self, ManifestError> {
        let mut manifest = Self::for_file(path, |_| Component::OpenInference)?;
        let file_name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        names::check_path(file_name).map_err(|wanted| ManifestError::NotAProject {
            path: path.to_owned(),
            problem: format!("found {file_name:?} as the file's name, wanted {wanted}"),
        })?;
        let graph = ManifestGraph {
            file: unlocated("graphs.default.file", file_name.to_owned()),
            backend: GraphBackend::default(),
            target: GraphTarget::default(),
            threads: 1,
            batch: None,
        };
        manifest.graphs.insert("default".to_owned(), graph);
        Ok(manifest)
    }

    fn for_file(
        path: &Path,
        component: impl FnOnce(&OsStr) -> Component,
    ) -> Result<Self, ManifestError> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let (Some(name), Some(file_name)) = (names::name_from(&stem), path.file_name()) else {
            return Err(ManifestError::NotAProject {
                path: path.to_owned(),
                problem: format!(
                    "the file's name contains no valid name for a model: rename the file or write a {FILE_NAME}"
                ),
            });
        };
        Ok(Self {
            file: path.to_owned(),
            root: folder_of(path),
            name,
            build: None,
            component: component(file_name),
            files: Vec::new(),
            graphs: BTreeMap::new(),
            secrets: BTreeSet::new(),
            environment_variables: BTreeMap::new(),
            allow: BTreeSet::new(),
            snapshot: false,
            example: None,
            load_graphs_from_bytes: false,
            isolation: Isolation::default(),
            limits: Limits::default(),
            autoscaling: AutoscalingSettings::default(),
        })
    }

    /// An error about the file that a value names.
    pub fn error_at<T>(&self, place: &Located<T>, problem: impl Into<String>) -> ManifestError {
        if place.line == 0 {
            return ManifestError::NotAProject {
                path: self.file.clone(),
                problem: problem.into(),
            };
        }
        ManifestError::Key {
            file: self.file.clone(),
            line: place.line,
            key: place.key.clone(),
            problem: problem.into(),
        }
    }
}

/// The folder of a file, whether or not either exists.
pub fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A value that does not come from a manifest.
fn unlocated<T>(key: &str, value: T) -> Located<T> {
    Located {
        value,
        key: key.to_owned(),
        line: 0,
    }
}

fn located<T>(field: &Field<'_>, value: T) -> Located<T> {
    Located {
        value,
        key: field.key().to_owned(),
        line: field.line(),
    }
}

/// A boolean; false if it is missing.
fn truth(table: &mut Table<'_>, name: &str) -> Result<bool, ManifestError> {
    table.take(name).map_or(Ok(false), |field| field.truth())
}

fn isolation(top: &mut Table<'_>) -> Result<Isolation, ManifestError> {
    let choices = [
        ("shared", Isolation::Shared),
        ("deployment", Isolation::Deployment),
    ];
    match top.take("isolation") {
        Some(field) => field.choice(&choices),
        None => Ok(Isolation::default()),
    }
}

fn build(field: &Field<'_>) -> Result<String, ManifestError> {
    let command = field.text()?;
    if command.trim().is_empty() || command.contains('\0') {
        return Err(
            field.error("found an empty command, wanted a shell command; or remove the key")
        );
    }
    Ok(command.to_owned())
}

fn example(field: &Field<'_>) -> Result<String, ManifestError> {
    let text = field.text()?;
    if text.len() > MAX_EXAMPLE_BYTES {
        let found = text.len();
        return Err(field.error(format!(
            "found {found} bytes, wanted a body of at most {MAX_EXAMPLE_BYTES}"
        )));
    }
    Ok(text.to_owned())
}

fn component_path(field: &Field<'_>) -> Result<Located<PathBuf>, ManifestError> {
    let path = Path::new(field.text()?);
    if path.as_os_str().is_empty() || path.has_root() {
        return Err(field.error("wanted a path relative to the manifest's folder"));
    }
    Ok(located(field, path.to_owned()))
}

fn files(top: &mut Table<'_>) -> Result<Vec<Located<String>>, ManifestError> {
    let Some(field) = top.take("files") else {
        return Ok(Vec::new());
    };
    field
        .list(MAX_FILES)?
        .iter()
        .map(|path| Ok(located(path, path.checked(names::check_path)?)))
        .collect()
}

fn graphs(top: &mut Table<'_>) -> Result<BTreeMap<String, ManifestGraph>, ManifestError> {
    let mut graphs = BTreeMap::new();
    let Some(field) = top.take("graphs") else {
        return Ok(graphs);
    };
    for (name, field) in field.into_table()?.into_fields() {
        if graphs.len() == MAX_GRAPHS {
            return Err(field.error(format!("wanted at most {MAX_GRAPHS} graphs")));
        }
        names::check_name(&name)
            .map_err(|wanted| field.error(format!("wanted a graph's name: {wanted}")))?;
        graphs.insert(name, graph(field)?);
    }
    Ok(graphs)
}

fn graph(field: Field<'_>) -> Result<ManifestGraph, ManifestError> {
    let mut table = field.into_table()?;
    table.allow(&["file", "backend", "target", "threads", "batch"])?;
    let file = table.require("file", "the path of the model file")?;
    let backends = [
        ("auto", GraphBackend::Auto),
        ("onnxruntime", GraphBackend::Onnxruntime),
        ("rten", GraphBackend::Rten),
    ];
    let targets = [
        ("auto", GraphTarget::Auto),
        ("cpu", GraphTarget::Cpu),
        ("gpu", GraphTarget::Gpu),
    ];
    Ok(ManifestGraph {
        file: located(&file, file.checked(names::check_path)?),
        backend: match table.take("backend") {
            Some(field) => field.choice(&backends)?,
            None => GraphBackend::default(),
        },
        target: match table.take("target") {
            Some(field) => field.choice(&targets)?,
            None => GraphTarget::default(),
        },
        threads: integer(&mut table, "threads", GRAPH_THREADS)?.unwrap_or(1),
        batch: table.take("batch").map(batch).transpose()?,
    })
}

fn batch(field: Field<'_>) -> Result<Batch, ManifestError> {
    let mut table = field.into_table()?;
    table.allow(&["max_size", "max_delay_ms"])?;
    Ok(Batch {
        max_size: table
            .require("max_size", "the maximum number of rows of one run")?
            .integer(Batch::SIZE)?,
        max_delay_ms: table
            .require("max_delay_ms", "the longest wait for another call")?
            .integer(Batch::DELAY_MS)?,
    })
}

fn secrets(top: &mut Table<'_>) -> Result<BTreeSet<String>, ManifestError> {
    unique(top.take("secrets"), MAX_SECRETS, names::check_variable)
}

fn allow(top: &mut Table<'_>) -> Result<BTreeSet<String>, ManifestError> {
    let Some(field) = top.take("network") else {
        return Ok(BTreeSet::new());
    };
    let mut table = field.into_table()?;
    table.allow(&["allow"])?;
    unique(table.take("allow"), MAX_HOSTS, names::check_host)
}

fn unique(
    list: Option<Field<'_>>,
    limit: usize,
    check: fn(&str) -> Result<(), &'static str>,
) -> Result<BTreeSet<String>, ManifestError> {
    let mut values = BTreeSet::new();
    for field in list.map_or(Ok(Vec::new()), |list| list.list(limit))? {
        let value = field.checked(check)?;
        if values.contains(&value) {
            return Err(field.error(format!("found {value:?} twice, wanted it once")));
        }
        values.insert(value);
    }
    Ok(values)
}

fn environment_variables(top: &mut Table<'_>) -> Result<BTreeMap<String, String>, ManifestError> {
    let mut variables = BTreeMap::new();
    let Some(field) = top.take("environment_variables") else {
        return Ok(variables);
    };
    for (name, field) in field.into_table()?.into_fields() {
        if variables.len() == MAX_VARIABLES {
            return Err(field.error(format!(
                "wanted at most {MAX_VARIABLES} environment variables"
            )));
        }
        names::check_variable(&name).map_err(|wanted| {
            field.error(format!(
                "wanted the name of an environment variable: {wanted}"
            ))
        })?;
        let value = field.text()?;
        check_value(&name, value).map_err(|error| in_manifest(&field, &error))?;
        variables.insert(name, value.to_owned());
    }
    Ok(variables)
}

fn limits(top: &mut Table<'_>) -> Result<Limits, ManifestError> {
    let mut limits = Limits::default();
    let Some(field) = top.take("limits") else {
        return Ok(limits);
    };
    let mut table = field.into_table()?;
    table.allow(&["memory", "timeout", "body", "requests_per_replica"])?;
    if let Some(field) = table.take("memory") {
        limits.memory_bytes = field.size_bytes(Limits::MEMORY_BYTES)?;
    }
    if let Some(field) = table.take("timeout") {
        limits.timeout_ms = field.duration_ms(Limits::TIMEOUT_MS)?;
    }
    if let Some(field) = table.take("body") {
        limits.body_bytes = field.size_bytes(Limits::BODY_BYTES)?;
    }
    if let Some(field) = table.take("requests_per_replica") {
        limits.requests_per_replica = Some(field.integer(Limits::REQUESTS_PER_REPLICA)?);
    }
    Ok(limits)
}

fn autoscaling(top: &mut Table<'_>) -> Result<AutoscalingSettings, ManifestError> {
    let mut settings = AutoscalingSettings::default();
    let Some(field) = top.take("autoscaling") else {
        return Ok(settings);
    };
    let mut table = field.into_table()?;
    table.allow(&AutoscalingSettings::NAMES)?;
    let mut given = BTreeMap::new();
    for name in AutoscalingSettings::NAMES {
        if let Some(field) = table.take(name) {
            if let Some(setting) = settings.get_mut(name) {
                *setting = field.integer(0..=u32::MAX)?;
            }
            given.insert(format!("autoscaling.{name}"), field);
        }
    }
    let Err(error) = settings.validate() else {
        return Ok(settings);
    };
    // A range may hang on a setting that was left out; then one that was given is named.
    let place = given.get(&error.field).or_else(|| given.values().next());
    place.map_or(Ok(settings), |field| Err(in_manifest(field, &error)))
}

fn in_manifest(field: &Field<'_>, error: &InvalidSetting) -> ManifestError {
    let InvalidSetting {
        field: name,
        found,
        wanted,
    } = error;
    if *name == field.key() {
        field.error(format!("found {found}, wanted {wanted}"))
    } else {
        field.error(error.to_string())
    }
}

fn integer(
    table: &mut Table<'_>,
    name: &str,
    range: std::ops::RangeInclusive<u32>,
) -> Result<Option<u32>, ManifestError> {
    table
        .take(name)
        .map(|field| field.integer(range))
        .transpose()
}

#[cfg(test)]
mod tests;
