//! A hash that is the same on every gateway and in every version: fingerprints and draws are made of it. Not one that
//! withstands whoever chooses what is hashed.

/// FNV-1a, 64 bit, of the parts one after the other.
pub(super) fn hash<const N: usize>(parts: [&str; N]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    parts.iter().flat_map(|part| part.bytes()).fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}
