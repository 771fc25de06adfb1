//! Controls the parts of the running stack through stack.sh.

use crate::error::Error;
use crate::proc::Process;
use service::env::{self, Env, Variable};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// `STACK`: path of stack.sh.
pub const STACK: Variable = Variable::required(
    "STACK",
    "path of stack.sh of the running stack, for the pids of its parts and for restarts \
     (stack/stack.sh)",
);

pub const COMMAND_HANDLER: &str = "command-handler";
pub const GRAPHQL_ENDPOINT: &str = "graphql-endpoint";
pub const POSTGRES: &str = "postgres";

/// stack.sh, which reads STACK_DIR from the environment.
#[derive(Debug, Clone)]
pub struct Stack(PathBuf);

impl Stack {
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        env.text(&STACK).map(|path| Self(path.into()))
    }

    /// The current process of `part`.
    pub fn process(&self, part: &str) -> Result<Process, Error> {
        let output = self.run(&["pid", part], &[])?;
        let pid = output.trim().parse().map_err(|_| self.failed(&["pid", part], &output))?;
        Process::open(pid).map_err(|source| Error::Part { part: part.to_owned(), pid, source })
    }

    /// Restarts `part` with `variables` in its environment, and waits until it is ready.
    pub fn restart(&self, part: &str, variables: &[(&str, &str)]) -> Result<(), Error> {
        self.run(&["stop", part], &[])?;
        self.run(&["start", part], variables).map(drop)
    }

    pub fn kill(&self, part: &str, signal: &str) -> Result<(), Error> {
        self.run(&["kill", part, signal], &[]).map(drop)
    }

    /// Runs a command of stack.sh with `variables` in its environment. Returns its output.
    pub fn run(&self, args: &[&str], variables: &[(&str, &str)]) -> Result<String, Error> {
        let output = Command::new(&self.0)
            .args(args)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .map_err(|err| self.failed(args, &err.to_string()))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(self.failed(args, &String::from_utf8_lossy(&output.stderr)))
        }
    }

    fn failed(&self, args: &[&str], message: &str) -> Error {
        let command = format!("{} {}", self.0.display(), args.join(" "));
        Error::Stack { command, message: message.trim().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stderr_of_the_script_is_in_the_error() {
        let stack = Stack("sh".into());
        let err = stack.run(&["-c", "echo it is down >&2; exit 1"], &[]).unwrap_err();
        assert_eq!(err.to_string(), "sh -c echo it is down >&2; exit 1: it is down");
        assert!(Stack("/no/such/script".into()).run(&[], &[]).is_err());
    }

    #[test]
    fn variables_reach_the_part() {
        let stack = Stack("sh".into());
        let output = stack.run(&["-c", "echo $PRODUCER_MODE"], &[("PRODUCER_MODE", "single")]);
        assert_eq!(output.unwrap(), "single\n");
    }
}
