//! Ordered maps and sets, made without a sort.

/// What `collect` makes, entry by entry. The standard library sorts before it makes a `BTreeMap`, by some 4 KB of code
/// for each type of key and value: a gateway's program had 160 KB of that.
pub(crate) fn gather<C: Default + Extend<T>, T>(items: impl IntoIterator<Item = T>) -> C {
    let mut all = C::default();
    all.extend(items);
    all
}
