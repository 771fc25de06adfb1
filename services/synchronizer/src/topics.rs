//! What is to be done about the topics. No I/O: from what is there and what is wanted to steps and problems.

use crate::admin::{NewTopic, Seen, SeenTopic};
use bank::topology::{COMMON_CONFIG, MIN_INSYNC_REPLICAS, REPLICATION, Topic};

/// A step towards the wanted topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a topic that is missing.
    Create(NewTopic),
    /// Set a config that differs.
    Set {
        /// Topic.
        topic: &'static str,
        /// Config.
        name: &'static str,
        /// As it is, if it is set at all.
        from: Option<String>,
        /// As it should be.
        to: String,
    },
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be done.
    pub steps: Vec<Step>,
    /// What differs and can't or may not be changed.
    pub problems: Vec<String>,
    /// What someone else has set, and keeps.
    pub foreign: Vec<String>,
    /// Partitions that have no leader yet.
    pub leaderless: Vec<String>,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Create(NewTopic { name, partitions, replication, configs }) => {
                let configs: Vec<String> =
                    configs.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let configs = configs.join(" ");
                write!(
                    f,
                    "create topic {name}: partitions={partitions} replication={replication} {configs}"
                )
            }
            Self::Set { topic, name, from, to } => {
                let from = from.as_deref().unwrap_or("unset");
                write!(f, "set {name} of topic {topic}: {from} -> {to}")
            }
        }
    }
}

/// From what is there to what is wanted.
pub fn plan(seen: &Seen, wanted: &[Topic]) -> Plan {
    let mut plan = Plan::default();
    let replication = REPLICATION.min(i16::try_from(seen.brokers).unwrap_or(i16::MAX));
    for topic in wanted {
        match seen.topics.get(topic.name) {
            None => plan.steps.push(Step::Create(NewTopic {
                name: topic.name,
                partitions: topic.partitions,
                replication,
                configs: configs(topic, replication),
            })),
            Some(found) => plan.compare(topic, found, replication),
        }
    }
    plan
}

impl Plan {
    fn compare(&mut self, topic: &Topic, found: &SeenTopic, replication: i16) {
        let name = topic.name;
        let (has, wanted) = (found.partitions, topic.partitions);
        // Growing would be one request. But a key's records would go to another partition from then on, and running services
        // read and write the partitions that they found at their start: what lands in a new one waits for a restart.
        if i64::try_from(has) != Ok(i64::from(wanted)) {
            let how = if i64::try_from(has).is_ok_and(|has| has < i64::from(wanted)) {
                "stop the services, grow it by hand, start them"
            } else {
                "partitions can't be taken away: make the topic anew"
            };
            self.problems
                .push(format!("topic {name} has {has} partitions instead of {wanted}: {how}"));
        }
        // More replicas than wanted are no harm, and a broker that is down for a while makes fewer wanted.
        let has = i16::try_from(found.replication).unwrap_or(i16::MAX);
        if has < replication {
            self.problems.push(format!(
                "topic {name} has replication {has} instead of {replication}: reassign its partitions by hand"
            ));
        }
        let configs = configs(topic, has);
        for (config, value) in &configs {
            let found = found.configs.get(*config);
            if found.is_none_or(|found| found.value != *value) {
                self.steps.push(Step::Set {
                    topic: name,
                    name: config,
                    from: found.map(|found| found.value.clone()),
                    to: value.clone(),
                });
            }
        }
        for (config, found) in &found.configs {
            if found.own && !configs.iter().any(|(ours, _)| ours == config) {
                self.foreign.push(format!(
                    "topic {name} keeps {config}={}, which is not ours",
                    found.value
                ));
            }
        }
        for partition in &found.leaderless {
            self.leaderless.push(format!("{name}/{partition}"));
        }
    }
}

/// All configs that a topic of this replication should have.
fn configs(topic: &Topic, replication: i16) -> Vec<(&'static str, String)> {
    // By the topic's own replication, not by the brokers that are there: one that is down for a while must not make the
    // others acknowledge alone.
    let insync = if replication >= REPLICATION { MIN_INSYNC_REPLICAS } else { 1 };
    let fixed = COMMON_CONFIG.iter().chain(topic.config);
    fixed
        .map(|(name, value)| (*name, (*value).to_owned()))
        .chain([("min.insync.replicas", insync.to_string())])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Config;
    use bank::topology::{BALANCE_CHANGED, HEARTBEAT, TOPICS};

    /// A cluster where `wanted` is as it should be.
    fn settled(brokers: usize, wanted: &[Topic]) -> Seen {
        let mut seen = Seen { brokers, ..Seen::default() };
        for step in plan(&seen, wanted).steps {
            let Step::Create(new) = step else { panic!("{step}") };
            let own =
                |(name, value): (&str, String)| (name.to_owned(), Config { value, own: true });
            let topic = SeenTopic {
                partitions: new.partitions as usize,
                replication: new.replication as usize,
                leaderless: Vec::new(),
                configs: new.configs.into_iter().map(own).collect(),
            };
            seen.topics.insert(new.name.to_owned(), topic);
        }
        seen
    }

    fn config<'a>(plan: &'a Plan, name: &str) -> Option<&'a str> {
        plan.steps.iter().find_map(|step| match step {
            Step::Create(new) => new
                .configs
                .iter()
                .find(|(config, _)| *config == name)
                .map(|(_, value)| value.as_str()),
            Step::Set { name: config, to, .. } => (*config == name).then_some(to.as_str()),
        })
    }

    #[test]
    fn replication_is_three_where_there_are_brokers_for_it() {
        for (brokers, replication, insync) in [(1, 1, "1"), (2, 2, "1"), (3, 3, "2"), (5, 3, "2")] {
            let plan = plan(&Seen { brokers, ..Seen::default() }, &[HEARTBEAT]);
            let [Step::Create(new)] = &*plan.steps else { panic!("{plan:?}") };
            assert_eq!((new.replication, new.partitions), (replication, 1), "{brokers} brokers");
            assert_eq!(config(&plan, "min.insync.replicas"), Some(insync));
            assert_eq!(config(&plan, "retention.ms"), Some("900000"));
            assert_eq!(config(&plan, "compression.type"), Some("uncompressed"));
        }
    }

    #[test]
    fn what_is_as_wanted_stays() {
        for brokers in [1, 3] {
            assert_eq!(plan(&settled(brokers, &TOPICS), &TOPICS), Plan::default());
        }
    }

    #[test]
    fn a_config_that_differs_is_set() {
        let mut seen = settled(1, &[HEARTBEAT]);
        let configs = &mut seen.topics.get_mut("heartbeat").unwrap().configs;
        configs.remove("compression.type");
        configs.insert("retention.ms".to_owned(), Config { value: "1".to_owned(), own: true });
        let plan = plan(&seen, &[HEARTBEAT]);
        let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            steps,
            [
                "set compression.type of topic heartbeat: unset -> uncompressed",
                "set retention.ms of topic heartbeat: 1 -> 900000",
            ]
        );
    }

    #[test]
    fn a_config_of_someone_else_is_kept_and_told() {
        let mut seen = settled(1, &[HEARTBEAT]);
        let configs = &mut seen.topics.get_mut("heartbeat").unwrap().configs;
        configs.insert("segment.ms".to_owned(), Config { value: "5".to_owned(), own: true });
        configs.insert("flush.ms".to_owned(), Config { value: "7".to_owned(), own: false });
        let plan = plan(&seen, &[HEARTBEAT]);
        assert_eq!(plan.foreign, ["topic heartbeat keeps segment.ms=5, which is not ours"]);
        assert_eq!((plan.steps, plan.problems), (Vec::new(), Vec::new()));
    }

    #[test]
    fn partitions_are_neither_grown_nor_shrunk() {
        for (partitions, words) in [(3, "grow it by hand"), (18, "can't be taken away")] {
            let mut seen = settled(1, &[BALANCE_CHANGED]);
            seen.topics.get_mut("balance_changed").unwrap().partitions = partitions;
            let plan = plan(&seen, &[BALANCE_CHANGED]);
            assert!(plan.steps.is_empty());
            assert!(plan.problems[0].contains(words), "{plan:?}");
        }
    }

    #[test]
    fn too_few_replicas_are_told_and_a_broker_that_is_down_changes_nothing() {
        let mut seen = settled(2, &[HEARTBEAT]);
        seen.brokers = 3;
        assert!(plan(&seen, &[HEARTBEAT]).problems[0].contains("replication 2 instead of 3"));
        let mut seen = settled(3, &[HEARTBEAT]);
        seen.brokers = 2;
        assert_eq!(plan(&seen, &[HEARTBEAT]), Plan::default());
    }

    #[test]
    fn a_partition_without_leader_is_waited_for() {
        let mut seen = settled(1, &[BALANCE_CHANGED]);
        seen.topics.get_mut("balance_changed").unwrap().leaderless = vec![4, 8];
        assert_eq!(
            plan(&seen, &[BALANCE_CHANGED]).leaderless,
            ["balance_changed/4", "balance_changed/8"]
        );
    }
}
