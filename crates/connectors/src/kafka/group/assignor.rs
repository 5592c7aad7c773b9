//! Who gets which partition: what the leader of a classic group decides. Members keep what they
//! have where that is fair, and nobody is given a partition that another has not given up yet
//! (cooperative rebalancing, KIP-429).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) type TopicPartition = (Arc<str>, i32);

/// A member as it described itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidate {
    pub topics: BTreeSet<Arc<str>>,
    pub owned: Vec<TopicPartition>,
    /// When it came to own them; a claim of an older generation is worth nothing beside a newer.
    pub generation: i32,
}

/// Every member's partitions. `counts` are the partitions of each topic.
pub(super) fn assign(
    members: &BTreeMap<String, Candidate>,
    counts: &BTreeMap<Arc<str>, i32>,
) -> BTreeMap<String, BTreeSet<TopicPartition>> {
    let owners = owners(members, counts);
    let mut loads: BTreeMap<&str, BTreeSet<TopicPartition>> =
        members.keys().map(|id| (id.as_str(), BTreeSet::new())).collect();
    for (partition, owner) in &owners {
        loads.entry(owner).or_default().insert(partition.clone());
    }
    let takes = |id: &str, topic: &str| members.get(id).is_some_and(|m| m.topics.contains(topic));
    for (topic, count) in counts {
        for index in 0..*count {
            let partition = (topic.clone(), index);
            if owners.contains_key(&partition) {
                continue;
            }
            let least = loads
                .iter_mut()
                .filter(|(id, _)| takes(id, topic))
                .min_by_key(|(_, load)| load.len());
            if let Some((_, load)) = least {
                load.insert(partition);
            }
        }
    }
    while let Some((from, to, partition)) = unfair(&loads, takes) {
        loads.entry(from).or_default().remove(&partition);
        loads.entry(to).or_default().insert(partition);
    }
    let given_up = |id: &str, partition: &TopicPartition| {
        owners.get(partition).is_none_or(|owner| *owner == id)
    };
    loads
        .into_iter()
        .map(|(id, mut load)| {
            load.retain(|partition| given_up(id, partition));
            (id.to_owned(), load)
        })
        .collect()
}

/// Who has what now, each partition once.
fn owners<'a>(
    members: &'a BTreeMap<String, Candidate>,
    counts: &BTreeMap<Arc<str>, i32>,
) -> BTreeMap<TopicPartition, &'a str> {
    let mut claims: BTreeMap<TopicPartition, (i32, &str)> = BTreeMap::new();
    for (id, member) in members {
        for partition in &member.owned {
            let exists = counts.get(&partition.0).is_some_and(|count| partition.1 < *count);
            if !exists || !member.topics.contains(&partition.0) {
                continue;
            }
            let claim = (member.generation, id.as_str());
            let known = claims.entry(partition.clone()).or_insert(claim);
            if claim.0 > known.0 {
                *known = claim;
            }
        }
    }
    claims.into_iter().map(|(partition, (_, id))| (partition, id)).collect()
}

/// A partition of the one who has at least two more than another that could take it.
fn unfair<'a>(
    loads: &BTreeMap<&'a str, BTreeSet<TopicPartition>>,
    takes: impl Fn(&str, &str) -> bool,
) -> Option<(&'a str, &'a str, TopicPartition)> {
    let mut by_load: Vec<_> = loads.iter().collect();
    by_load.sort_by_key(|(id, load)| (load.len(), **id));
    for (to, less) in &by_load {
        for (from, more) in by_load.iter().rev() {
            if more.len() < less.len() + 2 {
                break;
            }
            if let Some(partition) = more.iter().rev().find(|(topic, _)| takes(to, topic)) {
                return Some((from, to, partition.clone()));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(names: &[(&str, i32)]) -> BTreeMap<Arc<str>, i32> {
        names.iter().map(|(name, count)| ((*name).into(), *count)).collect()
    }

    fn member(topics: &[&str]) -> Candidate {
        let topics = topics.iter().map(|t| Arc::from(*t)).collect();
        Candidate { topics, ..Candidate::default() }
    }

    /// Rounds until nothing moves, as members give up and join again.
    fn settle(
        members: &mut BTreeMap<String, Candidate>,
        counts: &BTreeMap<Arc<str>, i32>,
    ) -> Vec<usize> {
        for round in 1.. {
            let assigned = assign(members, counts);
            let mut seen = BTreeSet::new();
            for partitions in assigned.values() {
                for partition in partitions {
                    assert!(seen.insert(partition.clone()), "{partition:?} twice");
                    let others = members.iter().filter(|(id, _)| assigned[*id] != *partitions);
                    for (_, other) in others {
                        assert!(!other.owned.contains(partition), "not given up yet");
                    }
                }
            }
            let mut moved = false;
            for (id, member) in members.iter_mut() {
                let owned: Vec<_> = assigned[id].iter().cloned().collect();
                moved |= owned != member.owned;
                member.owned = owned;
                member.generation = round;
            }
            if !moved {
                break;
            }
            assert!(round < 10, "it does not settle");
        }
        let mut shares: Vec<_> = members.values().map(|m| m.owned.len()).collect();
        shares.sort_unstable();
        shares
    }

    #[test]
    fn members_that_come_and_go_share_fairly_and_keep_what_they_have() {
        let counts = topics(&[("t", 20)]);
        let mut members = BTreeMap::from([("a".to_owned(), member(&["t"]))]);
        assert_eq!(settle(&mut members, &counts), [20]);
        members.insert("b".into(), member(&["t"]));
        assert_eq!(settle(&mut members, &counts), [10, 10]);
        let before = members["a"].owned.clone();
        members.insert("c".into(), member(&["t"]));
        assert_eq!(settle(&mut members, &counts), [6, 7, 7]);
        assert!(members["a"].owned.iter().all(|p| before.contains(p)), "a gained what it had not");
        members.remove("b");
        assert_eq!(settle(&mut members, &counts), [10, 10]);
    }

    #[test]
    fn each_gets_only_topics_it_reads() {
        let counts = topics(&[("t", 4), ("u", 6)]);
        let mut members = BTreeMap::from([
            ("a".to_owned(), member(&["t"])),
            ("b".to_owned(), member(&["t", "u"])),
        ]);
        assert_eq!(settle(&mut members, &counts), [4, 6]);
        assert!(members["a"].owned.iter().all(|(topic, _)| &**topic == "t"));
    }

    #[test]
    fn of_two_claims_the_newer_generation_counts() {
        let counts = topics(&[("t", 2)]);
        let claim = |generation| Candidate {
            owned: vec![("t".into(), 0), ("t".into(), 1)],
            generation,
            ..member(&["t"])
        };
        let members = BTreeMap::from([("a".to_owned(), claim(1)), ("b".to_owned(), claim(2))]);
        let assigned = assign(&members, &counts);
        // One of b's goes to a, but only when b has given it up.
        assert_eq!((assigned["a"].len(), assigned["b"].len()), (0, 1));
    }

    #[test]
    fn a_topic_that_shrank_or_went_is_nobodys() {
        let mut gone = member(&["t"]);
        gone.owned = vec![("t".into(), 5), ("x".into(), 0)];
        let members = BTreeMap::from([("a".to_owned(), gone)]);
        let assigned = assign(&members, &topics(&[("t", 2)]));
        assert_eq!(assigned["a"], BTreeSet::from([("t".into(), 0), ("t".into(), 1)]));
    }
}
