//! Plans the changes of topics: compares the existing topics with the target state. No I/O.

use crate::admin::{ClusterState, NewTopic, TopicState};
use bank::topology::{COMMON_CONFIG, MIN_INSYNC_REPLICAS, REPLICATION, Topic};

/// A change of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Create a missing topic.
    Create(NewTopic),
    /// Set a config that differs.
    Set {
        topic: &'static str,
        /// Name of the config.
        name: &'static str,
        /// Current value; `None` if the topic has none.
        from: Option<String>,
        /// Target value.
        to: String,
    },
}

/// The result of a comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes to make.
    pub steps: Vec<Step>,
    /// Differences that cannot be changed safely.
    pub problems: Vec<String>,
    /// Configs that are set for a topic but not part of the target state. They are kept.
    pub foreign: Vec<String>,
    /// Partitions without a leader, as `topic/partition`.
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
                    "create topic {name}: partitions={partitions} replication={replication} \
                     {configs}"
                )
            }
            Self::Set { topic, name, from, to } => {
                let from = from.as_deref().unwrap_or("unset");
                write!(f, "set {name} of topic {topic}: {from} -> {to}")
            }
        }
    }
}

/// Compares the cluster with the topics `target`.
pub fn plan(state: &ClusterState, target: &[Topic]) -> Plan {
    let mut plan = Plan::default();
    let replication = REPLICATION.min(i16::try_from(state.brokers).unwrap_or(i16::MAX));
    for topic in target {
        match state.topics.get(topic.name) {
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
    fn compare(&mut self, topic: &Topic, found: &TopicState, replication: i16) {
        let name = topic.name;
        let (has, target) = (found.partitions, topic.partitions);
        // Partitions are not added, because the records of a key would move to another partition.
        // Running services also read only the partitions that existed at their start.
        if i64::try_from(has) != Ok(i64::from(target)) {
            let remedy = if i64::try_from(has).is_ok_and(|has| has < i64::from(target)) {
                "stop the services, add partitions by hand, start the services"
            } else {
                "Kafka cannot remove partitions: delete and recreate the topic"
            };
            self.problems
                .push(format!("topic {name} has {has} partitions instead of {target}: {remedy}"));
        }
        // More replicas than necessary are harmless. While a broker is down, fewer are necessary.
        let has = i16::try_from(found.replication).unwrap_or(i16::MAX);
        if has < replication {
            self.problems.push(format!(
                "topic {name} has replication factor {has} instead of {replication}: reassign its \
                 partitions by hand"
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
            if found.is_set && !configs.iter().any(|(ours, _)| ours == config) {
                self.foreign.push(format!(
                    "topic {name} keeps {config}={}, which the synchronizer does not manage",
                    found.value
                ));
            }
        }
        for partition in &found.leaderless {
            self.leaderless.push(format!("{name}/{partition}"));
        }
    }
}

/// The target configs of a topic with this replication factor.
fn configs(topic: &Topic, replication: i16) -> Vec<(&'static str, String)> {
    // Depends on the replication factor of the topic, not on the number of brokers. While a broker
    // is down, an acknowledgement of one replica must not be enough.
    let insync = if replication >= REPLICATION { MIN_INSYNC_REPLICAS } else { 1 };
    let fixed = COMMON_CONFIG.iter().chain(topic.config);
    fixed
        .map(|(name, value)| (*name, (*value).to_owned()))
        .chain([
            ("max.message.bytes", topic.batch_bytes_max.to_string()),
            ("min.insync.replicas", insync.to_string()),
        ])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::ConfigEntry;
    use bank::topology::{BALANCE_CHANGED, HEARTBEAT, TOPICS};

    /// A cluster whose topics are in the target state.
    fn settled(brokers: usize, target: &[Topic]) -> ClusterState {
        let mut state = ClusterState { brokers, ..ClusterState::default() };
        for step in plan(&state, target).steps {
            let Step::Create(new) = step else { panic!("{step}") };
            let own = |(name, value): (&str, String)| {
                (name.to_owned(), ConfigEntry { value, is_set: true })
            };
            let topic = TopicState {
                partitions: new.partitions as usize,
                replication: new.replication as usize,
                leaderless: Vec::new(),
                configs: new.configs.into_iter().map(own).collect(),
            };
            state.topics.insert(new.name.to_owned(), topic);
        }
        state
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
    fn replication_factor_is_three_with_three_brokers() {
        for (brokers, replication, insync) in [(1, 1, "1"), (2, 2, "1"), (3, 3, "2"), (5, 3, "2")] {
            let plan = plan(&ClusterState { brokers, ..ClusterState::default() }, &[HEARTBEAT]);
            let [Step::Create(new)] = &*plan.steps else { panic!("{plan:?}") };
            assert_eq!((new.replication, new.partitions), (replication, 1), "{brokers} brokers");
            assert_eq!(config(&plan, "min.insync.replicas"), Some(insync));
            assert_eq!(config(&plan, "retention.ms"), Some("900000"));
            assert_eq!(config(&plan, "compression.type"), Some("uncompressed"));
        }
    }

    #[test]
    fn matching_topics_need_no_change() {
        for brokers in [1, 3] {
            assert_eq!(plan(&settled(brokers, &TOPICS), &TOPICS), Plan::default());
        }
    }

    #[test]
    fn differing_config_is_set() {
        let mut state = settled(1, &[HEARTBEAT]);
        let configs = &mut state.topics.get_mut("heartbeat").unwrap().configs;
        configs.remove("compression.type");
        configs
            .insert("retention.ms".to_owned(), ConfigEntry { value: "1".to_owned(), is_set: true });
        let plan = plan(&state, &[HEARTBEAT]);
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
    fn foreign_config_is_kept_and_reported() {
        let mut state = settled(1, &[HEARTBEAT]);
        let configs = &mut state.topics.get_mut("heartbeat").unwrap().configs;
        configs
            .insert("segment.ms".to_owned(), ConfigEntry { value: "5".to_owned(), is_set: true });
        configs.insert("flush.ms".to_owned(), ConfigEntry { value: "7".to_owned(), is_set: false });
        let plan = plan(&state, &[HEARTBEAT]);
        assert_eq!(
            plan.foreign,
            ["topic heartbeat keeps segment.ms=5, which the synchronizer does not manage"]
        );
        assert_eq!((plan.steps, plan.problems), (Vec::new(), Vec::new()));
    }

    #[test]
    fn partitions_are_neither_added_nor_removed() {
        for (partitions, remedy) in [(3, "add partitions by hand"), (18, "recreate the topic")] {
            let mut state = settled(1, &[BALANCE_CHANGED]);
            state.topics.get_mut("balance_changed").unwrap().partitions = partitions;
            let plan = plan(&state, &[BALANCE_CHANGED]);
            assert!(plan.steps.is_empty());
            assert!(plan.problems[0].contains(remedy), "{plan:?}");
        }
    }

    #[test]
    fn too_few_replicas_are_reported() {
        let mut state = settled(2, &[HEARTBEAT]);
        state.brokers = 3;
        assert!(
            plan(&state, &[HEARTBEAT]).problems[0].contains("replication factor 2 instead of 3")
        );
        let mut state = settled(3, &[HEARTBEAT]);
        state.brokers = 2;
        assert_eq!(plan(&state, &[HEARTBEAT]), Plan::default());
    }

    #[test]
    fn partition_without_a_leader_is_listed() {
        let mut state = settled(1, &[BALANCE_CHANGED]);
        state.topics.get_mut("balance_changed").unwrap().leaderless = vec![4, 8];
        assert_eq!(
            plan(&state, &[BALANCE_CHANGED]).leaderless,
            ["balance_changed/4", "balance_changed/8"]
        );
    }
}
