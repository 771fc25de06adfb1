//! Packets that are lost, for fault tests: rules of iptables for the loopback interface.

use crate::error::{Context, Result, failed};
use crate::foreground;
use crate::parts::Part;
use crate::stack::Stack;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// Loses `percent` of the packets to and from the ports of `part`. 0 ends the loss.
pub fn lose(stack: &Stack, part: Part, percent: u8) -> Result<()> {
    heal(stack, part)?;
    if percent == 0 {
        return Ok(());
    }
    // Before the rules, so that they are deleted also after an interruption here.
    let file = file(stack, part);
    fs::write(&file, percent.to_string()).context(file.display())?;
    for rule in rules(&part.ports(&stack.settings), percent) {
        if !iptables("-I", &rule) {
            return Err(failed("iptables failed: lose needs root and iptables"));
        }
    }
    Ok(())
}

/// Ends the loss of packets of `part`, if there is one.
pub fn heal(stack: &Stack, part: Part) -> Result<()> {
    let file = file(stack, part);
    let Ok(percent) = fs::read_to_string(&file) else { return Ok(()) };
    for rule in rules(&part.ports(&stack.settings), percent.parse().unwrap_or(100)) {
        // A rule is missing if `lose` was interrupted.
        iptables("-D", &rule);
    }
    fs::remove_file(&file).context(file.display())
}

fn file(stack: &Stack, part: Part) -> PathBuf {
    stack.dir.join("run").join(format!("{part}.lost"))
}

/// A rule for each port and direction.
fn rules(ports: &[u16], percent: u8) -> Vec<Vec<String>> {
    let loss = match percent {
        100.. => String::new(),
        _ => format!("-m statistic --mode random --probability 0.{percent:02} "),
    };
    let rule = |port: &u16| {
        ["--dport", "--sport"].map(|end| {
            let rule = format!("-i lo -p tcp {end} {port} {loss}-j DROP");
            rule.split(' ').map(str::to_owned).collect()
        })
    };
    ports.iter().flat_map(rule).collect()
}

fn iptables(action: &str, rule: &[String]) -> bool {
    let mut command = Command::new("iptables");
    command.args(["-w", action, "INPUT"]).args(rule);
    foreground::succeeds(&mut command, LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_of_each_port_have_a_rule() {
        let rules = |percent| -> Vec<String> {
            rules(&[1, 2], percent).iter().map(|rule| rule.join(" ")).collect()
        };
        assert_eq!(rules(100).len(), 4);
        assert_eq!(rules(100)[3], "-i lo -p tcp --sport 2 -j DROP");
        let some = "-i lo -p tcp --dport 1 -m statistic --mode random --probability 0.05 -j DROP";
        assert_eq!(rules(5)[0], some);
    }
}
