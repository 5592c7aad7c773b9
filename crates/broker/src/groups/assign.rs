//! Who reads what: the two assignors of the server's side.
//!
//! Both give every partition of a topic to exactly one of its subscribers. `uniform` keeps what
//! members have and evens the numbers out; `range` gives each member a row of neighbours per topic.

use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

pub type Part = (Uuid, i32);
pub type Parts = BTreeSet<Part>;
/// Members and the topics that each subscribes to.
pub type Subscriptions = BTreeMap<String, BTreeSet<Uuid>>;
/// Topics and how many partitions each has.
pub type Topics = BTreeMap<Uuid, i32>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Assignor {
    #[default]
    Uniform,
    Range,
}

impl Assignor {
    pub fn of_name(name: &str) -> Option<Assignor> {
        [Assignor::Uniform, Assignor::Range].into_iter().find(|assignor| assignor.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    pub fn assign(
        self,
        subscriptions: &Subscriptions,
        topics: &Topics,
        before: &BTreeMap<String, Parts>,
    ) -> BTreeMap<String, Parts> {
        match self {
            Assignor::Uniform => uniform(subscriptions, topics, before),
            Assignor::Range => range(subscriptions, topics),
        }
    }
}

fn subscribers<'a>(subscriptions: &'a Subscriptions, topic: &Uuid) -> Vec<&'a String> {
    let to_topic = subscriptions.iter().filter(|(_, topics)| topics.contains(topic));
    to_topic.map(|(member, _)| member).collect()
}

fn range(subscriptions: &Subscriptions, topics: &Topics) -> BTreeMap<String, Parts> {
    let mut given: BTreeMap<String, Parts> = empty(subscriptions);
    for (topic, partitions) in topics {
        let members = subscribers(subscriptions, topic);
        let mut next = 0;
        for (at, member) in members.iter().enumerate() {
            let left = members.len() - at;
            let share = (partitions - next + left as i32 - 1) / left as i32;
            let parts = (next..next + share).map(|index| (*topic, index));
            given.entry((*member).clone()).or_default().extend(parts);
            next += share;
        }
    }
    given
}

fn uniform(
    subscriptions: &Subscriptions,
    topics: &Topics,
    before: &BTreeMap<String, Parts>,
) -> BTreeMap<String, Parts> {
    let mut given: BTreeMap<String, Parts> = empty(subscriptions);
    let mut taken = Parts::new();
    for (member, wants) in subscriptions {
        for part in before.get(member).into_iter().flatten() {
            let there = topics.get(&part.0).is_some_and(|partitions| part.1 < *partitions);
            if there && wants.contains(&part.0) && taken.insert(*part) {
                given.entry(member.clone()).or_default().insert(*part);
            }
        }
    }
    let len =
        |given: &BTreeMap<String, Parts>, member: &String| given.get(member).map_or(0, Parts::len);
    for (topic, partitions) in topics {
        let members = subscribers(subscriptions, topic).into_iter();
        let mut by_load: BTreeSet<(usize, &String)> =
            members.map(|member| (len(&given, member), member)).collect();
        for part in (0..*partitions).map(|index| (*topic, index)) {
            if taken.contains(&part) {
                continue;
            }
            if let Some((load, member)) = by_load.pop_first() {
                given.entry(member.clone()).or_default().insert(part);
                by_load.insert((load + 1, member));
            }
        }
    }
    even_out(subscriptions, &mut given);
    given
}

/// Moves partitions from who has most to who has least, while that makes a difference.
fn even_out(subscriptions: &Subscriptions, given: &mut BTreeMap<String, Parts>) {
    let total: usize = given.values().map(Parts::len).sum();
    let fair = total / given.len().max(1);
    loop {
        let mut by_load: Vec<(usize, String)> =
            given.iter().map(|(member, parts)| (parts.len(), member.clone())).collect();
        by_load.sort();
        let mut moved = false;
        'pair: for (few, poor) in &by_load {
            let Some(wants) = subscriptions.get(poor) else { continue };
            for (many, rich) in by_load.iter().rev() {
                if *many <= few + 1 {
                    break;
                }
                // Past the middle it would be moved on from there.
                let surplus = many.saturating_sub(fair).min(fair.saturating_sub(*few)).max(1);
                let movable: Vec<Part> = given
                    .get(rich)
                    .into_iter()
                    .flatten()
                    .rev()
                    .filter(|part| wants.contains(&part.0))
                    .take(surplus)
                    .copied()
                    .collect();
                if movable.is_empty() {
                    continue;
                }
                for part in movable {
                    given.entry(rich.clone()).or_default().remove(&part);
                    given.entry(poor.clone()).or_default().insert(part);
                }
                moved = true;
                break 'pair;
            }
        }
        if !moved {
            return;
        }
    }
}

fn empty(subscriptions: &Subscriptions) -> BTreeMap<String, Parts> {
    subscriptions.keys().map(|member| (member.clone(), Parts::new())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn every_partition_has_one_reader_and_loads_differ_by_one() {
        for seed in 0..300 {
            let mut rng = StdRng::seed_from_u64(seed);
            let topics: Topics = (0..rng.random_range(1..4))
                .map(|at| (Uuid::from_u128(at), rng.random_range(1..30)))
                .collect();
            let members = rng.random_range(1..8);
            let same = rng.random_bool(0.5);
            let subscriptions: Subscriptions = (0..members)
                .map(|at| {
                    let wants = topics.keys().filter(|_| same || rng.random_bool(0.7)).copied();
                    (format!("m{at}"), wants.collect())
                })
                .collect();
            for assignor in [Assignor::Uniform, Assignor::Range] {
                let mut before = BTreeMap::new();
                for round in 0..3 {
                    let mut subscriptions = subscriptions.clone();
                    if round == 1 {
                        subscriptions.remove("m0");
                    }
                    let given = assignor.assign(&subscriptions, &topics, &before);
                    let all: Vec<&Part> = given.values().flatten().collect();
                    let distinct: BTreeSet<&&Part> = all.iter().collect();
                    assert_eq!(all.len(), distinct.len(), "seed {seed}");
                    for (topic, partitions) in &topics {
                        let read = all.iter().filter(|part| part.0 == *topic).count() as i32;
                        let readers = !super::subscribers(&subscriptions, topic).is_empty();
                        assert_eq!(read, if readers { *partitions } else { 0 }, "seed {seed}");
                    }
                    for (member, parts) in &given {
                        assert!(parts.iter().all(|part| subscriptions[member].contains(&part.0)));
                    }
                    let loads = || given.values().map(Parts::len);
                    if same && assignor == Assignor::Uniform && !given.is_empty() {
                        assert!(
                            loads().max().unwrap() - loads().min().unwrap() <= 1,
                            "seed {seed}"
                        );
                    }
                    before = given;
                }
            }
        }
    }

    #[test]
    fn uniform_moves_no_more_than_it_must() {
        let topic = Uuid::from_u128(1);
        let topics: Topics = [(topic, 12)].into();
        let wants: BTreeSet<Uuid> = [topic].into();
        let mut subscriptions: Subscriptions =
            (0..3).map(|at| (format!("m{at}"), wants.clone())).collect();
        let before = Assignor::Uniform.assign(&subscriptions, &topics, &BTreeMap::new());
        subscriptions.insert("m3".to_owned(), wants);
        let after = Assignor::Uniform.assign(&subscriptions, &topics, &before);
        let kept: usize =
            before.iter().map(|(m, parts)| parts.intersection(&after[m]).count()).sum();
        assert_eq!(kept, 9);
    }
}
