//! A stack: its folders, settings, pid files and lock.

use crate::error::{Context, Result, failed};
use crate::foreground::{self, Report};
use crate::interrupt;
use crate::output::{self, say};
use crate::parts::{self, Part};
use crate::process::{PidFiles, Process, supervisor};
use crate::settings::{self, Settings, Values};
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Time that a command waits for another one that changes the same stack, which may be a build.
const LOCK_LIMIT: Duration = Duration::from_secs(3600);
/// Longest duration of an installation of packages.
const INSTALL_LIMIT: Duration = Duration::from_secs(1800);

/// A stack and its folders.
#[derive(Debug, Clone)]
pub struct Stack {
    /// The checkout.
    pub root: PathBuf,
    /// `STACK_DIR`.
    pub dir: PathBuf,
    /// Folder of the servers that Maven downloads.
    pub servers_dir: PathBuf,
    /// Current settings.
    pub settings: Settings,
    /// Variables in the caller's environment.
    pub given: Values,
    pub pids: PidFiles,
}

impl Stack {
    /// The stack in the environment variables, with the settings of its last start.
    pub fn open(root: &Path) -> Result<Self> {
        let dir = settings::folder("STACK_DIR")?.unwrap_or_else(|| root.join(".stack"));
        Self::open_in(root, dir)
    }

    /// The stack in `dir`.
    pub fn open_in(root: &Path, dir: PathBuf) -> Result<Self> {
        let servers = settings::folder("SERVERS_DIR")?;
        let given = settings::given()?;
        Ok(Self {
            root: root.to_owned(),
            servers_dir: servers.unwrap_or_else(|| root.join("target/servers")),
            settings: Settings::remembered(&given, &dir)?,
            given,
            pids: PidFiles::new(&dir.join("run")),
            dir,
        })
    }

    /// All parts.
    pub fn parts(&self) -> Vec<Part> {
        parts::all(&self.settings)
    }

    /// The data folder of a version of Kafka and number of brokers. It includes the data of
    /// registry
    /// and PostgreSQL, since schema ids and outcomes belong to Kafka's log.
    pub fn data_dir(&self) -> PathBuf {
        let Settings { kafka, brokers, .. } = &self.settings;
        self.dir.join(match brokers {
            1 => kafka.clone(),
            _ => format!("{kafka}-brokers-{brokers}"),
        })
    }

    /// Jars of a version of Kafka.
    pub fn kafka_jars(&self, version: &str) -> PathBuf {
        self.servers_dir.join(format!("kafka-{version}"))
    }

    /// The folder of the binaries of services.
    pub fn bin_dir(&self) -> Result<PathBuf> {
        let given = self.settings.text("BIN_DIR");
        if !given.is_empty() {
            return Ok(given.into());
        }
        let target = settings::folder("CARGO_TARGET_DIR")?;
        let target = target.unwrap_or_else(|| self.root.join("target"));
        Ok(target.join(match self.settings.text("PROFILE") {
            "dev" => "debug",
            profile => profile,
        }))
    }

    /// The path of stack.sh.
    pub fn script(&self) -> PathBuf {
        self.root.join("stack/stack.sh")
    }

    /// Checks that the machine has what `purpose` needs. As root on Debian, installs it.
    pub fn prerequisites(&self, purpose: &str) -> Result<()> {
        let mut script = Command::new(self.script());
        script.arg("prerequisites").arg(purpose).stdin(Stdio::null());
        let what = "stack.sh prerequisites";
        let status = foreground::run(&mut script, what, INSTALL_LIMIT, Report::Nothing)?;
        if status.success() {
            return Ok(());
        }
        // stack.sh has printed what is missing.
        Err(failed(format!("the prerequisites of {purpose} are missing")))
    }

    /// Path of the log of a part or step.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("log").join(format!("{name}.log"))
    }

    /// The process of `part`, if it is running.
    pub fn process(&self, part: Part) -> Option<Process> {
        self.pids.find(&part.to_string())
    }

    /// The supervisor of `part`, if it is a service whose supervisor is running.
    pub fn supervisor(&self, part: Part) -> Option<Process> {
        part.service().and_then(|service| self.pids.find(&supervisor(service.name)))
    }

    /// True if `part` is running or will be restarted.
    pub fn is_up(&self, part: Part) -> bool {
        match part.service() {
            Some(_) => self.supervisor(part).is_some(),
            None => self.process(part).is_some(),
        }
    }

    /// The parts that are up.
    pub fn parts_up(&self) -> Vec<Part> {
        self.parts().into_iter().filter(|&part| self.is_up(part)).collect()
    }

    /// Starts `command` in a separate session, with its output appended to the part's log.
    pub fn launch(&self, part: Part, launched: Launch) -> Result<()> {
        let log = self.log(&part.to_string());
        let output = foreground::append(&log)?;
        let errors = output.try_clone().context(log.display())?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("stack");
        let name = match launched {
            Launch::Server(words) => {
                command.arg("detach").args(words);
                part.to_string()
            }
            Launch::Service { binary, variables } => {
                let name = part.to_string();
                // As variables, since all users of the machine can read arguments.
                command.arg("supervise").arg(&name).arg(self.pids.dir()).arg(binary);
                command.envs(variables);
                supervisor(&name)
            }
        };
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().context(format!("could not start {part}"))?;
        self.pids.record(&name, i32::try_from(child.id()).unwrap_or(0))
    }

    /// Takes the lock, so that one command at a time changes a stack. Dropping the result releases
    /// it.
    pub fn lock(&self) -> Result<Lock> {
        for dir in [self.pids.dir().to_owned(), self.dir.join("log")] {
            fs::create_dir_all(&dir).context(dir.display())?;
            // Logs are for the owner only. PostgreSQL's user passes through the folder above.
            fs::set_permissions(&dir, Permissions::from_mode(0o700)).context(dir.display())?;
        }
        let path = self.dir.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .context(path.display())?;
        let since = Instant::now();
        let mut reported = false;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(err)) => return Err(err).context(path.display()),
            }
            if !reported {
                say(format!(
                    "{} is changing {}: waiting for it.",
                    holder(&mut file),
                    self.dir.display()
                ));
                reported = true;
            }
            if since.elapsed() > LOCK_LIMIT {
                return Err(failed(format!(
                    "{} is still changing {} after one hour: stop it and try again",
                    holder(&mut file),
                    self.dir.display()
                )));
            }
            output::progress("Waiting for the other command", since);
            interrupt::pause(Duration::from_millis(50))?;
        }
        output::clear_progress();
        // The pid is only for the messages above.
        let _ = file.set_len(0).and_then(|()| file.rewind());
        let _ = write!(file, "{}", std::process::id());
        Ok(Lock(file))
    }
}

/// A command for [`Stack::launch`].
pub enum Launch {
    /// A program with its arguments.
    Server(Vec<String>),
    /// The binary of a service with variables, under a supervisor.
    Service {
        /// Path of the binary.
        binary: PathBuf,
        /// Added to the environment.
        variables: Vec<(String, String)>,
    },
}

/// The lock of a stack. Dropping it releases the lock.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing the file ends the lock")] File);

fn holder(file: &mut File) -> String {
    let mut pid = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut pid));
    match read {
        Ok(count) if count > 0 => format!("Another command (pid {pid})"),
        _ => "Another command".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_folder_depends_on_version_and_brokers() {
        let mut stack = Stack::open_in(Path::new("/checkout"), "/s".into()).unwrap();
        for (kafka, brokers, folder) in
            [("3.9", "1", "/s/3.9"), ("4", "1", "/s/4"), ("4", "3", "/s/4-brokers-3")]
        {
            let given = [("KAFKA", kafka), ("BROKERS", brokers)];
            let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
            stack.settings = Settings::configured(&Values::from(given)).unwrap();
            assert_eq!(stack.data_dir(), Path::new(folder));
        }
    }
}
