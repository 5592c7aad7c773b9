//! What the tables of compatibility have in common: a case is judged at every level.

use millstream_registry::Level;

/// Name, old schema, new schema, whether new reads old, whether old reads new.
pub type Case = (&'static str, &'static str, &'static str, bool, bool);

pub const YES: bool = true;
pub const NO: bool = false;

/// Holds `messages` of an old and a new schema at a level, none when they are compatible, against
/// each case. Gives how many cases there are.
pub fn judge(groups: &[&[Case]], messages: impl Fn(&str, &str, Level) -> Vec<String>) -> usize {
    let mut wrong = Vec::new();
    let cases = groups.iter().copied().flatten();
    for (name, old, new, backward, forward) in cases.clone() {
        for level in Level::ALL {
            let wanted = (!level.backward() || *backward) && (!level.forward() || *forward);
            let messages = messages(old, new, level);
            if messages.is_empty() != wanted {
                wrong.push(format!("{name} at {level:?}: {messages:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    cases.count()
}
