//! A hash that is the same on every gateway and in every version: fingerprints and draws are made of it, and the
//! traces of simulated runs. Not one that withstands whoever chooses what is hashed.

/// FNV-1a, 64 bits.
#[derive(Debug)]
pub(crate) struct Fnv(pub(crate) u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// These come next.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        const PRIME: u64 = 0x100_0000_01b3;
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    }
}

/// That of the parts one after the other.
pub(crate) fn hash<const N: usize>(parts: [&str; N]) -> u64 {
    let mut hash = Fnv::default();
    parts.iter().for_each(|part| hash.write(part.as_bytes()));
    hash.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_every_machine() {
        assert_eq!(hash(["foo", "bar"]), 0x8594_4171_f739_67e8);
    }
}
