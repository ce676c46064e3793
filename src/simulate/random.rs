//! Random numbers of the simulator: small, fast, repeatable. Nothing secret comes from here.

/// The SplitMix64 generator. The same seed gives the same numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts at `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator of its own for `index`, unlike those of all other indexes.
    pub const fn fork(&self, index: u64) -> Self {
        Self(mix(self.0 ^ mix(index.wrapping_add(STEP))))
    }

    /// 64 random bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// 16 random bits: the entropy of a frame.
    pub const fn entropy(&mut self) -> u16 {
        self.next() as u16
    }

    /// A number from 0 up to, not including, 1.
    pub const fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with a probability of `share`: never at 0, always at 1.
    pub const fn chance(&mut self, share: f64) -> bool {
        self.fraction() < share
    }
}

/// The odd number nearest to 2^64 divided by the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads every bit of `value` over all others.
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_the_published_numbers_of_splitmix64() {
        let mut random = Random::new(1_234_567);
        let numbers = [random.next(), random.next(), random.next()];
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn a_chance_of_none_never_comes_and_of_all_always() {
        let mut random = Random::new(1);
        assert!((0..1000).all(|_| !random.chance(0.0) && random.chance(1.0)));
        let half = (0..1000).filter(|_| random.chance(0.5)).count();
        assert!((400..600).contains(&half), "{half}");
    }

    #[test]
    fn forks_differ_from_each_other_and_repeat() {
        let root = Random::new(9);
        let first: Vec<u64> = (0..100).map(|index| root.fork(index).next()).collect();
        let mut distinct = first.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 100);
        assert_eq!(first[7], root.fork(7).next());
    }
}
