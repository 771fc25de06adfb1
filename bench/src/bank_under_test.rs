//! The bank under test: its processes, its offsets, and the command-handler that is restarted in
//! another mode.

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

/// Time between two looks at the lag.
const LOOK: Duration = Duration::from_millis(500);

/// The running stack, or a handler of its own on the stack's servers.
pub struct BankUnderTest {
    pub cluster: Cluster,
    pub shutdown: Shutdown,
    /// Lag and rates.
    pub lag: ConsumerLag,
    pub usage: ProcessUsage,
    /// How the handler runs.
    pub mode: Mode,
    /// The mode's name or the handler's, for lines of progress.
    pub name: String,
    stack: Stack,
    http: Http,
    /// Where the handler has its metrics; none if it has not ours.
    handler_url: Option<String>,
    /// True if the handler was restarted.
    restarted: bool,
}

impl BankUnderTest {
    /// Finds the running stack.
    pub fn open(start: &Start<'_>) -> Result<Self, Error> {
        let heartbeat = Heartbeat::new(&start.env.text(&HEARTBEAT_URL)?);
        if heartbeat.batch_size()? > 0 {
            return Err(Error::Bank(
                "the heartbeat makes load of its own, which would be measured too: set its batch_size to 0".to_owned(),
            ));
        }
        Self::new(start, None, Some(start.env.text(&HANDLER_URL)?))
    }

    /// The servers of the stack, with `handler` as the command-handler.
    pub fn with_handler(start: &Start<'_>, handler: &HandlerProcess) -> Result<Self, Error> {
        // Other handlers need not have our metrics.
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
        output::progress(&format!("{COMMAND_HANDLER} starts with {producer} {client}"));
        // Before the restart: one that fails half-way is to be undone too.
        self.restarted = true;
        self.mode = mode;
        self.name = mode.to_string();
        self.stack.restart(COMMAND_HANDLER, &variables)?;
        self.usage = ProcessUsage::find(&self.stack, self.cluster.kafka.brokers.len(), None)?;
        Ok(())
    }

    /// Restarts the handler as the stack starts it, unless it still runs that way.
    pub fn restore_handler(&self) -> Result<(), Error> {
        if self.restarted { self.stack.restart(COMMAND_HANDLER, &[]) } else { Ok(()) }
    }

    /// Batches and requests of the handler so far; zeros if it does not have our metrics.
    pub fn work(&self) -> Result<Work, Error> {
        self.handler_url.as_ref().map_or(Ok(Work::default()), |url| Work::read(&self.http, url))
    }

    /// Sends `signal` to `part`, named as the stack names it.
    pub fn kill(&self, part: &str, signal: &str) -> Result<(), Error> {
        self.stack.kill(part, signal)
    }

    /// Waits until all services have read all records but `unread_max`, at most `within`.
    pub fn settle(&mut self, unread_max: i64, within: Duration) -> Result<(), Error> {
        let (began, mut line) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        loop {
            let lag = self.lag.lag()?;
            if lag <= unread_max {
                return Ok(());
            }
            if began.elapsed() > within {
                return Err(Error::Bank(format!(
                    "{lag} records are still unread {} s after the load stopped; do all services run? (make status, make logs)",
                    within.as_secs()
                )));
            }
            if Instant::now() > line {
                line += Duration::from_secs(1);
                output::progress(&format!("{:8} the load has stopped; lag {lag}", self.name));
            }
            if self.shutdown.wait(LOOK) {
                return Err(Error::Stopped);
            }
        }
    }
}

/// The end of a measurement, after its figures are printed: the exit code of a whole one from
/// `complete`, 130 after Ctrl-C.
pub fn conclude(
    shutdown: &Shutdown,
    measured: Result<(), Error>,
    restored: Result<(), Error>,
    complete: impl FnOnce() -> ExitCode,
) -> Result<ExitCode, Error> {
    match (measured, restored) {
        (Ok(()), Ok(())) => Ok(complete()),
        // Ctrl-C reaches the stack's script too, and the producer gives up: any error comes from
        // that.
        (Err(_), Ok(())) if shutdown.requested() => {
            output::progress("Stopped: what was measured until then is above.");
            Ok(ExitCode::from(130))
        }
        (Err(err), _) | (_, Err(err)) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_measurement_is_no_error_unless_the_bank_is_not_restored() {
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
