//! The command-handlers that can be measured and verified: ours in each mode, and those in peers/.

use crate::error::Error;
use crate::mode::Mode;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Options that locate the handlers.
#[derive(Debug, Clone, clap::Args)]
pub struct HandlerOptions {
    /// Folder with a subfolder for each other implementation, with its build.sh and run
    /// (docs/handler-contract.md)
    #[arg(long, value_name = "FOLDER", default_value = "peers")]
    peers: PathBuf,
    /// Folder with NAME/artefact for each other implementation: all files that it needs
    #[arg(long, value_name = "FOLDER", default_value = "target/peers")]
    peers_out: PathBuf,
    /// Binary of our command-handler [default: command-handler in the folder of this program]
    #[arg(long, value_name = "FILE")]
    scratchbank: Option<PathBuf>,
}

/// Name of our command-handler in its default mode.
pub const OURS: &str = "scratchbank";

/// A command-handler that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Name in tables.
    pub name: String,
    /// Shell command that starts it; the shell replaces itself with it by `exec`.
    pub command: String,
    /// Environment variables in addition to those of the contract.
    pub variables: Vec<(String, String)>,
    /// File or folder with all that was built for it; none if it is not known.
    pub artefact: Option<PathBuf>,
    /// True if the command starts a container with the name in the variable `CONTAINER`. A kill
    /// must end the container too.
    pub in_container: bool,
}

/// Locations of the handlers.
#[derive(Debug, Clone)]
pub struct Handlers {
    peers: PathBuf,
    built: PathBuf,
    ours: PathBuf,
}

impl Handlers {
    /// The locations in `options`.
    pub fn new(options: &HandlerOptions) -> Result<Self, Error> {
        let ours = match &options.scratchbank {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .map_err(|source| Error::Read { path: "/proc/self/exe".into(), source })?
                .with_file_name("command-handler"),
        };
        Ok(Self {
            peers: options.peers.clone(),
            built: options.peers_out.clone(),
            ours: absolute(ours),
        })
    }

    /// All handlers: ours first, then the peers by name.
    pub fn all(&self) -> Result<Vec<Handler>, Error> {
        let mut all: Vec<Handler> =
            [Mode::Batched, Mode::Single, Mode::BuiltIn].map(|mode| self.own(mode)).to_vec();
        let mut peers = Vec::new();
        for folder in entries(&self.peers)?.into_iter().filter(|path| path.is_dir()) {
            for run in entries(&folder)? {
                peers.extend(self.peer(&folder, &run));
            }
        }
        peers.sort_by(|a: &Handler, b| a.name.cmp(&b.name));
        all.extend(peers);
        Ok(all)
    }

    /// The handler with the name `word`, or else one that `word` starts as a command.
    pub fn named(&self, word: &str) -> Result<Handler, Error> {
        // Its name in earlier versions.
        let name = if word == "scratchbank-modern" { "scratchbank-built-in" } else { word };
        if let Some(known) = self.all()?.into_iter().find(|handler| handler.name == name) {
            return Ok(known);
        }
        let program = word.split_whitespace().next().unwrap_or_default();
        let file = Path::new(program);
        Ok(Handler {
            name: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            command: word.to_owned(),
            variables: Vec::new(),
            artefact: Some(file.to_owned()).filter(|path| path.is_file()),
            in_container: false,
        })
    }

    fn own(&self, mode: Mode) -> Handler {
        let name = match mode {
            Mode::Batched => OURS.to_owned(),
            other => format!("{OURS}-{other}"),
        };
        let variables = mode.variables().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Handler {
            name,
            command: quoted(&self.ours),
            variables: variables.to_vec(),
            artefact: Some(self.ours.clone()),
            in_container: false,
        }
    }

    /// The handler that `run` starts, if it is an executable file named `run` or `run-MODE`.
    fn peer(&self, folder: &Path, run: &Path) -> Option<Handler> {
        let folder_name = folder.file_name()?.to_str()?;
        let suffix = run.file_name()?.to_str()?.strip_prefix("run")?;
        let runs = fs::metadata(run)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        if !runs || !(suffix.is_empty() || suffix.starts_with('-')) {
            return None;
        }
        Some(Handler {
            name: format!("{folder_name}{suffix}"),
            command: quoted(&absolute(run.to_owned())),
            variables: Vec::new(),
            artefact: Some(absolute(self.built.join(folder_name).join("artefact"))),
            in_container: false,
        })
    }
}

impl Handler {
    /// The handler in a Docker image, as a container in the network of the host.
    pub fn of_image(image: &str) -> Self {
        let passed = ["KAFKA_BROKERS", "SCHEMA_REGISTRY_URL", "DATABASE_URL", "HEALTH_PORT"];
        let passed = passed.map(|name| format!("--env {name}")).join(" ");
        Self {
            name: image.replace('/', "_"),
            command: format!(
                "docker run --rm --network host --name \"$CONTAINER\" {passed} {}",
                quoted(Path::new(image))
            ),
            variables: Vec::new(),
            artefact: None,
            in_container: true,
        }
    }

    /// True if its artefact exists.
    pub fn is_built(&self) -> bool {
        self.artefact.as_ref().is_none_or(|path| path.exists())
    }

    /// Size of its artefact, bytes.
    pub fn artefact_bytes(&self) -> Result<Option<u64>, Error> {
        let Some(path) = &self.artefact else { return Ok(None) };
        let failed = |source| Error::Read { path: path.clone(), source };
        let files = files(path).map_err(failed)?;
        Ok(Some(files.iter().map(|(_, file)| file.len()).sum()))
    }

    /// Size of its artefact and of the files outside it that its process has `mapped`, bytes: the
    /// minimum for an image.
    pub fn image_bytes(&self, mapped: &[PathBuf]) -> Result<u64, Error> {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let artefact = self.artefact.as_deref().map(real);
        let outside = |path: &&PathBuf| !artefact.as_ref().is_some_and(|it| path.starts_with(it));
        let mut bytes = self.artefact_bytes()?.unwrap_or(0);
        for path in mapped.iter().filter(outside) {
            let file = fs::metadata(path);
            bytes += file.map_err(|source| Error::Read { path: path.clone(), source })?.len();
        }
        Ok(bytes)
    }

    /// Changes with each build. It contains the command, and number, bytes and last change of the
    /// artefact's files.
    pub fn fingerprint(&self) -> Result<String, Error> {
        let Some(path) = &self.artefact else { return Ok(self.command.clone()) };
        let failed = |source| Error::Read { path: path.clone(), source };
        let files = files(path).map_err(failed)?;
        let bytes: u64 = files.iter().map(|(_, file)| file.len()).sum();
        let last = files.iter().filter_map(|(_, file)| file.modified().ok()).max();
        let last = last.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let nanos = last.map_or(0, |time| time.as_nanos());
        let variables = &self.variables;
        Ok(format!("{} {variables:?} {} {bytes} {nanos}", self.command, files.len()))
    }
}

/// A file, or all files below a folder. Symbolic links are not followed.
fn files(path: &Path) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let file = fs::symlink_metadata(path)?;
    if !file.is_dir() {
        return Ok(vec![(path.to_owned(), file)]);
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(path)? {
        all.extend(files(&entry?.path())?);
    }
    Ok(all)
}

/// The entries of a folder; empty if the folder does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Read { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// A path quoted for the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn executable_run_files_of_peers_are_handlers() {
        let folder = std::env::temp_dir().join(format!("bench-peers-{}", std::process::id()));
        let handlers = Handlers {
            peers: folder.join("peers"),
            built: folder.join("built"),
            ours: folder.join("it's ours"),
        };
        assert_eq!(handlers.all().unwrap().len(), 3, "peers are optional");
        for (file, mode) in [
            ("b/run", 0o755),
            ("b/run-single", 0o755),
            ("b/run.txt", 0o755),
            ("b/build.sh", 0o755),
            ("a/run", 0o644),
            ("c/running", 0o755),
        ] {
            program(&handlers.peers.join(file), mode);
        }
        let all = handlers.all().unwrap();
        let names: Vec<&str> = all.iter().map(|handler| handler.name.as_str()).collect();
        assert_eq!(names, [OURS, "scratchbank-single", "scratchbank-built-in", "b", "b-single"]);
        assert!(all[0].command.ends_with(r"/it'\''s ours'"), "{}", all[0].command);
        assert!(!all[3].is_built());
        program(&handlers.built.join("b/artefact/deep/file"), 0o644);
        assert!(all[3].is_built() && all[4].is_built());
        assert_eq!(all[4].artefact_bytes().unwrap(), Some(10));
        let before = all[4].fingerprint().unwrap();
        assert_ne!(before, all[3].fingerprint().unwrap(), "another command");
        program(&handlers.built.join("b/artefact/more"), 0o644);
        assert_ne!(before, all[4].fingerprint().unwrap(), "another build");
        let outside = handlers.peers.join("c/running");
        let mapped = [fs::canonicalize(handlers.built.join("b/artefact/more")).unwrap(), outside];
        assert_eq!(all[4].image_bytes(&mapped).unwrap(), 30);
        assert_eq!(handlers.named("b-single").unwrap(), all[4]);
        assert_eq!(handlers.named("scratchbank-modern").unwrap(), all[2]);
        let command = handlers.named("/bin/sh -c true").unwrap();
        assert_eq!((command.name.as_str(), command.command.as_str()), ("sh", "/bin/sh -c true"));
        assert_eq!(command.artefact, Some("/bin/sh".into()));
        let image = Handler::of_image("bank/handler:1");
        assert_eq!((image.name.as_str(), image.in_container), ("bank_handler:1", true));
        assert!(
            image.command.ends_with(" --env HEALTH_PORT 'bank/handler:1'"),
            "{}",
            image.command
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
