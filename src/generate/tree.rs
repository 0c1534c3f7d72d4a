//! The tree of all prompts: each distinct position of each distinct prefix is one node's, and is computed once.

use std::ops::Range;

/// A run of tokens that no prompt leaves or enters in the middle.
#[derive(Debug)]
pub(super) struct Node {
    pub parent: Option<usize>,
    pub children: Vec<usize>,
    /// The tokens are `prompts[source][range]`; `range.start` is the node's first position.
    pub source: usize,
    pub range: Range<usize>,
    /// Prompts that end with this node's last token.
    pub ends: Vec<usize>,
}

/// All prompts as a compressed trie. Prompts are not empty.
#[derive(Debug, Default)]
pub(super) struct PrefixTree {
    pub nodes: Vec<Node>,
    pub roots: Vec<usize>,
}

impl PrefixTree {
    pub fn new(prompts: &[&[u32]]) -> Self {
        let mut tree = Self::default();
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by(|&a, &b| prompts[a].cmp(prompts[b]).then(a.cmp(&b)));
        // The path to the previous prompt; the next in order shares a prefix with it at least as long as with any other.
        let mut path: Vec<usize> = Vec::new();
        let mut previous: &[u32] = &[];
        for index in order {
            let prompt = prompts[index];
            assert!(!prompt.is_empty(), "a prompt has at least one token");
            let shared = previous.iter().zip(prompt).take_while(|(a, b)| a == b).count();
            while path.last().is_some_and(|&node| tree.nodes[node].range.start >= shared) {
                path.pop();
            }
            if let Some(&node) = path.last()
                && tree.nodes[node].range.end > shared
            {
                tree.split(node, shared);
            }
            if shared == prompt.len() {
                let node = *path.last().expect("a non-empty prefix is on the path");
                tree.nodes[node].ends.push(index);
            } else {
                let parent = path.last().copied();
                let node = tree.push(Node {
                    parent,
                    children: Vec::new(),
                    source: index,
                    range: shared..prompt.len(),
                    ends: vec![index],
                });
                path.push(node);
            }
            previous = prompt;
        }
        tree
    }

    fn push(&mut self, node: Node) -> usize {
        let index = self.nodes.len();
        match node.parent {
            Some(parent) => self.nodes[parent].children.push(index),
            None => self.roots.push(index),
        }
        self.nodes.push(node);
        index
    }

    /// Cuts a node at position `at`: it keeps the head, a new child takes the tail with its children and ends.
    fn split(&mut self, node: usize, at: usize) {
        let tail = self.nodes.len();
        let head = &mut self.nodes[node];
        let (source, end) = (head.source, head.range.end);
        head.range.end = at;
        let children = std::mem::replace(&mut head.children, vec![tail]);
        let ends = std::mem::take(&mut head.ends);
        for &child in &children {
            self.nodes[child].parent = Some(tail);
        }
        self.nodes.push(Node { parent: Some(node), children, source, range: at..end, ends });
    }

    /// Positions in the tree: what a forward pass has to compute.
    pub fn positions(&self) -> usize {
        self.nodes.iter().map(|node| node.range.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        /// Each distinct prefix is one position, and every prompt is spelled by its path.
        #[test]
        fn every_prefix_once(prompts in prop::collection::vec(prop::collection::vec(0_u32..3, 1..8), 1..20)) {
            let slices: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
            let tree = PrefixTree::new(&slices);
            let prefixes: HashSet<&[u32]> = slices.iter().flat_map(|p| (1..=p.len()).map(|n| &p[..n])).collect();
            prop_assert_eq!(tree.positions(), prefixes.len());
            let mut ended = vec![0; prompts.len()];
            for (index, node) in tree.nodes.iter().enumerate() {
                prop_assert_eq!(node.range.start, node.parent.map_or(0, |parent| tree.nodes[parent].range.end));
                for &child in &node.children {
                    prop_assert_eq!(tree.nodes[child].parent, Some(index));
                }
                for &end in &node.ends {
                    ended[end] += 1;
                    let mut spelled = Vec::new();
                    let mut at = Some(index);
                    while let Some(node) = at.map(|at| &tree.nodes[at]) {
                        let mut run = slices[node.source][node.range.clone()].to_vec();
                        run.append(&mut spelled);
                        spelled = run;
                        at = node.parent;
                    }
                    prop_assert_eq!(&spelled, &prompts[end]);
                }
            }
            prop_assert!(ended.iter().all(|&count| count == 1));
        }
    }
}
