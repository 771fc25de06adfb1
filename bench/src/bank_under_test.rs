//! The bank under test: its processes, its offsets, and its command-handler, which is restarted in
//! each mode.

use crate::consumer_lag::ConsumerLag;
use crate::control::{HEARTBEAT_URL, Heartbeat, Http};
use crate::error::Error;
use crate::handler_process::HandlerProcess;
use crate::metrics::{HANDLER_URL, Work};
use crate::mode::Mode;
use crate::output;
use crate::process_usage::ProcessUsage;
use crate::stack::{COMMAND_HANDLER, Stack};
use crate::start::Start;
use crate::topic_reader::Cluster;
use service::shutdown::Shutdown;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Time between two requests for the lag.
const LAG_INTERVAL: Duration = Duration::from_millis(500);

/// The running stack, or the servers of the stack with another command-handler.
pub struct BankUnderTest {
    pub cluster: Cluster,
    pub shutdown: Shutdown,
    /// Lag and rates of the consumer groups.
    pub lag: ConsumerLag,
    pub usage: ProcessUsage,
    /// Producer mode and client of the handler.
    pub mode: Mode,
    /// Name of the mode or of the handler, in lines of progress.
    pub name: String,
    stack: Stack,
    http: Http,
    /// Address of the handler's metrics; none if it does not have the metrics of ours.
    handler_url: Option<String>,
    restarted: bool,
}

impl BankUnderTest {
    /// Finds the running stack. Fails if the heartbeat sends records.
    pub fn open(start: &Start<'_>) -> Result<Self, Error> {
        let heartbeat = Heartbeat::new(&start.env.text(&HEARTBEAT_URL)?);
        if heartbeat.batch_size()? > 0 {
            return Err(Error::Bank(
                "the heartbeat sends records, which would be measured too: set its batch_size to 0"
                    .to_owned(),
            ));
        }
        Self::new(start, None, Some(start.env.text(&HANDLER_URL)?))
    }

    /// Uses the servers of the stack, with `handler` as the command-handler.
    pub fn with_handler(start: &Start<'_>, handler: &HandlerProcess) -> Result<Self, Error> {
        // The contract does not require metrics.
        let url = Some(handler.url()).filter(|url| Work::read(&Http::default(), url).is_ok());
        let bank = Self::new(start, Some(handler), url)?;
        Ok(Self { name: handler.name.clone(), ..bank })
    }

    fn new(
        start: &Start<'_>,
        handler: Option<&HandlerProcess>,
        handler_url: Option<String>,
    ) -> Result<Self, Error> {
        let (cluster, stack) = (Cluster::from_env(&start.env)?, Stack::from_env(&start.env)?);
        let brokers = cluster.kafka.brokers.len();
        Ok(Self {
            usage: ProcessUsage::find(&stack, brokers, handler.map(|it| it.process))?,
            lag: ConsumerLag::new(&cluster),
            cluster,
            shutdown: start.shutdown.clone(),
            mode: Mode::Batched,
            name: Mode::Batched.to_string(),
            stack,
            http: Http::default(),
            handler_url,
            restarted: false,
        })
    }

    /// Restarts the handler in `mode`.
    pub fn restart_handler(&mut self, mode: Mode) -> Result<(), Error> {
        let variables = mode.variables();
        let [producer, client] = variables.map(|(name, value)| format!("{name}={value}"));
        output::progress(&format!("Restarting {COMMAND_HANDLER} with {producer} {client}"));
        // Set before the restart: a restart that fails must be undone too.
        self.restarted = true;
        self.mode = mode;
        self.name = mode.to_string();
        self.stack.restart(COMMAND_HANDLER, &variables)?;
        self.usage = ProcessUsage::find(&self.stack, self.cluster.kafka.brokers.len(), None)?;
        Ok(())
    }

    /// Restarts the handler with its default settings, if it was restarted in a mode.
    pub fn restore_handler(&self) -> Result<(), Error> {
        if self.restarted { self.stack.restart(COMMAND_HANDLER, &[]) } else { Ok(()) }
    }

    /// Batches and requests of the handler so far; zeros if it does not have the metrics of ours.
    pub fn work(&self) -> Result<Work, Error> {
        self.handler_url.as_ref().map_or(Ok(Work::default()), |url| Work::read(&self.http, url))
    }

    /// Sends `signal` to `part`; both as stack.sh names them.
    pub fn kill(&self, part: &str, signal: &str) -> Result<(), Error> {
        self.stack.kill(part, signal)
    }

    /// Waits until at most `unread_max` records are unread by the services. Fails after `within`.
    pub fn settle(&mut self, unread_max: i64, within: Duration) -> Result<(), Error> {
        let (began, mut line) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        loop {
            let lag = self.lag.lag()?;
            if lag <= unread_max {
                return Ok(());
            }
            if began.elapsed() > within {
                return Err(Error::Bank(format!(
                    "{lag} records are still unread {} s after the load stopped; are all services \
                     running? (make status, make logs)",
                    within.as_secs()
                )));
            }
            if Instant::now() > line {
                line += Duration::from_secs(1);
                output::progress(&format!(
                    "{:8} load stopped, {lag} records are unread",
                    self.name
                ));
            }
            if self.shutdown.wait(LAG_INTERVAL) {
                return Err(Error::Stopped);
            }
        }
    }
}

/// Ends a measurement after its figures are printed. The exit code is that of `complete` for a
/// complete measurement, and 130 after Ctrl-C.
pub fn conclude(
    shutdown: &Shutdown,
    measured: Result<(), Error>,
    restored: Result<(), Error>,
    complete: impl FnOnce() -> ExitCode,
) -> Result<ExitCode, Error> {
    match (measured, restored) {
        (Ok(()), Ok(())) => Ok(complete()),
        // Ctrl-C also ends stack.sh and the producer, so any error is a consequence of it.
        (Err(_), Ok(())) if shutdown.requested() => {
            output::progress("Stopped: the figures above are incomplete.");
            Ok(ExitCode::from(130))
        }
        (Err(err), _) | (_, Err(err)) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_measurement_fails_only_without_a_restored_bank() {
        let (running, stopped) = (Shutdown::default(), Shutdown::default());
        stopped.request();
        let failed = || Err(Error::Bank("failed".to_owned()));
        let code = |shutdown: &Shutdown, measured, restored| {
            conclude(shutdown, measured, restored, || ExitCode::SUCCESS).ok()
        };
        assert_eq!(code(&running, Ok(()), Ok(())), Some(ExitCode::SUCCESS));
        assert_eq!(code(&stopped, failed(), Ok(())), Some(ExitCode::from(130)));
        assert_eq!(code(&running, failed(), Ok(())), None);
        assert_eq!(code(&stopped, failed(), failed()), None);
        assert_eq!(code(&running, Ok(()), failed()), None);
    }
}
