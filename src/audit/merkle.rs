//! The Merkle tree of RFC 6962 (section 2.1). Pure.
//!
//! ```text
//! leaf  = SHA-256(0x00 ‖ data)
//! node  = SHA-256(0x01 ‖ left ‖ right)
//! empty = SHA-256()
//! ```
//! A tree of n leaves is split after the greatest power of two less than n.

use sha2::{Digest, Sha256};

pub use crate::store::seals::Hash;

/// Computes the hash of the parent of two subtrees.
fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([0x01]).chain_update(left).chain_update(right).finalize().into()
}

/// Computes a root from leaves that are added one by one. It keeps one hash per bit of its size.
#[derive(Debug, Clone, Default)]
pub struct RootBuilder {
    /// The complete subtrees with the number of their leaves, largest first.
    subtrees: Vec<(u64, Hash)>,
    size: u64,
}

impl RootBuilder {
    /// Adds the next leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.size += 1;
        let (mut leaves, mut hash) = (1, leaf);
        while let Some((_, left)) = self.subtrees.pop_if(|(size, _)| *size == leaves) {
            hash = node(&left, &hash);
            leaves *= 2;
        }
        self.subtrees.push((leaves, hash));
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root over the leaves added so far.
    pub fn root(&self) -> Hash {
        let hashes = self.subtrees.iter().rev().map(|(_, hash)| *hash);
        hashes
            .reduce(|right, left| node(&left, &right))
            .unwrap_or_else(|| Sha256::digest([]).into())
    }
}

/// Computes the root over all leaves.
pub fn root<'a>(leaves: impl IntoIterator<Item = &'a Hash>) -> Hash {
    let mut tree = RootBuilder::default();
    leaves.into_iter().for_each(|leaf| tree.push(*leaf));
    tree.root()
}

/// The inclusion path of a leaf (RFC 6962, section 2.1.1): the hashes that lead to the root, the
/// nearest first. Returns `None` if there is no such leaf.
pub fn inclusion_path(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    let (mut within, mut index, mut path) = (leaves, index, Vec::new());
    while within.len() > 1 {
        let (left, right) = within.split_at(half(within.len()));
        if index < left.len() {
            path.push(root(right));
            within = left;
        } else {
            path.push(root(left));
            index -= left.len();
            within = right;
        }
    }
    path.reverse();
    Some(path)
}

/// The greatest power of two less than `n`, for `n` of at least 2.
fn half(n: usize) -> usize {
    1 << (usize::BITS - 1 - (n - 1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::hex;

    /// Leaves, and the roots of the trees over the first n of them, from the tests of
    /// certificate-transparency (the reference implementation).
    const DATA: [&str; 8] = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn leaf(data: &[u8]) -> Hash {
        Sha256::new().chain_update([0x00]).chain_update(data).finalize().into()
    }

    /// Computes the root to which a path leads from a leaf (RFC 9162, section 2.1.3.2). Returns
    /// `None` if no tree of that size has such a path.
    fn root_of_path(leaf: &Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
        if index >= size {
            return None;
        }
        let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
        for step in path {
            if last == 0 {
                return None;
            }
            if at & 1 == 1 || at == last {
                hash = node(step, &hash);
                while at & 1 == 0 && at != 0 {
                    at >>= 1;
                    last >>= 1;
                }
            } else {
                hash = node(&hash, step);
            }
            at >>= 1;
            last >>= 1;
        }
        (last == 0).then_some(hash)
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let leaves: Vec<Hash> = DATA.iter().map(|data| leaf(&bytes(data))).collect();
        for (count, expected) in (1..).zip(ROOTS) {
            assert_eq!(hex(root(&leaves[..count])), expected, "{count} leaves");
        }
        assert_eq!(
            hex(root(&[])),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn a_path_leads_to_the_root_only_from_its_leaf_at_its_index() {
        let leaves: Vec<Hash> = (0_u32..40).map(|n| leaf(&n.to_be_bytes())).collect();
        for size in 1..=leaves.len() {
            let within = &leaves[..size];
            let whole = root(within);
            for index in 0..size {
                let path = inclusion_path(within, index).unwrap();
                let lead = |leaf: &Hash, at: usize, of: usize| {
                    root_of_path(leaf, at as u64, of as u64, &path)
                };
                assert_eq!(lead(&within[index], index, size), Some(whole), "{index} of {size}");
                assert_ne!(lead(&leaf(b"another"), index, size), Some(whole));
                for at in (0..size).filter(|at| *at != index) {
                    assert_ne!(
                        lead(&within[index], at, size),
                        Some(whole),
                        "{index} taken for {at} of {size}"
                    );
                }
                let mut longer = path.clone();
                longer.push(whole);
                assert_eq!(root_of_path(&within[index], index as u64, size as u64, &longer), None);
                if let Some((_, shorter)) = path.split_last() {
                    assert_ne!(
                        root_of_path(&within[index], index as u64, size as u64, shorter),
                        Some(whole)
                    );
                }
            }
            assert_eq!(inclusion_path(within, size), None);
            assert_eq!(root_of_path(&leaves[0], size as u64, size as u64, &[]), None);
        }
    }
}
