//! Topic names and filters (MQTT 4.7). Pure.

/// The longest topic or filter, in levels: a filter of 64 KiB of slashes must not cost a walk at each publish.
const LEVELS_MAX: usize = 128;

/// Whether a publish may go there: not empty, no wildcards, no NUL.
pub(super) fn is_name(topic: &str) -> bool {
    !topic.is_empty() && !topic.contains(['+', '#', '\0']) && topic.split('/').count() <= LEVELS_MAX
}

/// Whether it may be subscribed to: wildcards fill a whole level, `#` only the last. Shared subscriptions are not
/// served.
pub(super) fn is_filter(filter: &str) -> bool {
    let levels = filter.split('/').count();
    let sound = filter.split('/').enumerate().all(|(index, level)| match level {
        "#" => index + 1 == levels,
        "+" => true,
        _ => !level.contains(['+', '#', '\0']),
    });
    sound && !filter.is_empty() && levels <= LEVELS_MAX && !is_shared(filter)
}

/// Whether it is a shared subscription (MQTT 5, 4.8.2).
pub(super) fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/")
}

/// Whether a message to `topic` goes to a subscriber of `filter`. A wildcard in the first level does not reach topics
/// that start with `$` (4.7.2).
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = topic.split('/');
    for level in filter.split('/') {
        // `a/#` covers `a` itself too.
        if level == "#" {
            return true;
        }
        match names.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}
