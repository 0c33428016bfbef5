//! The kernel's own description of its types (BTF): where a field of a structure is.
//!
//! Decides:  which types are looked for; that a description that makes no sense is an error.
//! Kernel:   Documentation/bpf/btf.rst; include/uapi/linux/btf.h; `/sys/kernel/btf/vmlinux` since 5.4
//! Not here: which fields are wanted (layout.rs).

use std::collections::BTreeMap;

use portcullis_sys::netlink::{u16_at, u32_at};

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;
const KIND_LAST: u32 = 19;
/// Structures are not nested deeper than this.
const DEPTH_MAX: u32 = 16;

/// The types of a kernel.
#[derive(Debug)]
pub(crate) struct Btf<'a> {
    strings: &'a [u8],
    /// The bytes of each type from its own on.
    types: Vec<&'a [u8]>,
    structures: BTreeMap<&'a [u8], u32>,
    functions: BTreeMap<&'a [u8], u32>,
}

/// Where a field is, in bits from the structure's beginning, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field {
    pub bit: u32,
    pub bits: u32,
}

impl Field {
    /// The byte that it begins in.
    pub(crate) const fn byte(self) -> u32 {
        self.bit / 8
    }
}

impl<'a> Btf<'a> {
    /// Reads a description; of all its structures and functions, those that `wanted` names.
    pub(crate) fn parse(bytes: &'a [u8], wanted: &[&str]) -> Result<Btf<'a>, &'static str> {
        let word = |at: usize| u32_at(bytes, at).ok_or("BTF is cut short");
        if u16_at(bytes, 0) != Some(MAGIC) {
            return Err("no BTF of this machine's byte order");
        }
        let header = word(4)? as usize;
        let (type_at, type_len) = (word(8)? as usize, word(12)? as usize);
        let (string_at, string_len) = (word(16)? as usize, word(20)? as usize);
        if header < HEADER {
            return Err("BTF's header is too short");
        }
        let part = |at: usize, length: usize| {
            let begin = header.checked_add(at)?;
            bytes.get(begin..begin.checked_add(length)?)
        };
        let mut rest = part(type_at, type_len).ok_or("BTF's types are not there")?;
        let strings = part(string_at, string_len).ok_or("BTF's names are not there")?;
        let wanted = offsets_of(strings, wanted);
        let mut btf = Btf {
            strings,
            types: vec![&[]],
            structures: BTreeMap::new(),
            functions: BTreeMap::new(),
        };
        while !rest.is_empty() {
            let (kind, count) = kind_of(rest).ok_or("a type of BTF is cut short")?;
            let number = btf.types.len() as u32;
            let length = 12 + behind(kind, count).ok_or("a type of an unknown kind in BTF")?;
            if let KIND_STRUCT | KIND_UNION | KIND_FUNC = kind {
                let name = u32_at(rest, 0).unwrap_or(0);
                if let Some(&(name, _)) = wanted.iter().find(|&&(_, at)| at == name) {
                    let table = match kind {
                        KIND_FUNC => &mut btf.functions,
                        _ => &mut btf.structures,
                    };
                    table.entry(name).or_insert(number);
                }
            }
            btf.types.push(rest);
            rest = rest.get(length..).ok_or("a type of BTF is cut short")?;
        }
        Ok(btf)
    }

    /// The number of a function's type.
    pub(crate) fn function(&self, name: &str) -> Option<u32> {
        self.functions.get(name.as_bytes()).copied()
    }

    /// A field of a structure by its path, `sk.__sk_common.skc_state`; anonymous members are looked into.
    pub(crate) fn field(&self, structure: &str, path: &str) -> Option<Field> {
        let mut at = *self.structures.get(structure.as_bytes())?;
        let mut found = Field { bit: 0, bits: 0 };
        for name in path.split('.') {
            let (inner, kind) = self.member(at, name.as_bytes(), DEPTH_MAX)?;
            found = Field {
                bit: found.bit.checked_add(inner.bit)?,
                bits: inner.bits,
            };
            at = kind;
        }
        Some(found)
    }

    /// The size of a structure in bytes.
    #[cfg(test)]
    pub(crate) fn size(&self, structure: &str) -> Option<u32> {
        u32_at(self.bytes(*self.structures.get(structure.as_bytes())?)?, 8)
    }

    fn member(&self, number: u32, name: &[u8], depth: u32) -> Option<(Field, u32)> {
        let depth = depth.checked_sub(1)?;
        let number = self.resolve(number)?;
        let bytes = self.bytes(number)?;
        let (kind, count) = kind_of(bytes)?;
        if kind != KIND_STRUCT && kind != KIND_UNION {
            return None;
        }
        let bit_fields = u32_at(bytes, 4)? >> 31 == 1;
        for index in 0..count as usize {
            let at = 12 + index * 12;
            let (own, kind) = (u32_at(bytes, at)?, u32_at(bytes, at + 4)?);
            let offset = u32_at(bytes, at + 8)?;
            let (bit, bits) = if bit_fields {
                (offset & 0xff_ffff, offset >> 24)
            } else {
                (offset, 0)
            };
            if self.name(own) == Some(name) {
                let bits = match bits {
                    0 => self.bits(kind, DEPTH_MAX)?,
                    bits => bits,
                };
                return Some((Field { bit, bits }, kind));
            }
            if own == 0
                && let Some((inner, kind)) = self.member(kind, name, depth)
            {
                let bit = bit.checked_add(inner.bit)?;
                return Some((
                    Field {
                        bit,
                        bits: inner.bits,
                    },
                    kind,
                ));
            }
        }
        None
    }

    /// Behind typedefs and qualifiers.
    fn resolve(&self, mut number: u32) -> Option<u32> {
        for _ in 0..DEPTH_MAX {
            let bytes = self.bytes(number)?;
            match kind_of(bytes)?.0 {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_TYPE_TAG => {
                    number = u32_at(bytes, 8)?;
                }
                _ => return Some(number),
            }
        }
        None
    }

    fn bits(&self, number: u32, depth: u32) -> Option<u32> {
        let depth = depth.checked_sub(1)?;
        let bytes = self.bytes(self.resolve(number)?)?;
        match kind_of(bytes)?.0 {
            KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64 => {
                u32_at(bytes, 8)?.checked_mul(8)
            }
            KIND_ARRAY => {
                let one = self.bits(u32_at(bytes, 12)?, depth)?;
                one.checked_mul(u32_at(bytes, 20)?)
            }
            2 => Some(64), // A pointer, on every machine that this runs on.
            _ => None,
        }
    }

    fn bytes(&self, number: u32) -> Option<&'a [u8]> {
        self.types
            .get(number as usize)
            .copied()
            .filter(|bytes| !bytes.is_empty())
    }

    fn name(&self, at: u32) -> Option<&'a [u8]> {
        let rest = self.strings.get(at as usize..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        Some(&rest[..end])
    }
}

/// Where names stand among the strings.
fn offsets_of<'a>(strings: &'a [u8], names: &[&str]) -> Vec<(&'a [u8], u32)> {
    let mut found = Vec::new();
    let mut at = 0;
    for string in strings.split(|&byte| byte == 0) {
        if names.iter().any(|name| name.as_bytes() == string) {
            found.push((string, at as u32));
        }
        at += string.len() + 1;
    }
    found
}

fn kind_of(bytes: &[u8]) -> Option<(u32, u32)> {
    let info = u32_at(bytes, 4)?;
    u32_at(bytes, 8)?;
    Some((info >> 24 & 0x1f, info & 0xffff))
}

/// How many bytes follow a type's first twelve.
fn behind(kind: u32, count: u32) -> Option<usize> {
    let count = count as usize;
    Some(match kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => count * 12,
        KIND_ENUM | KIND_FUNC_PROTO => count * 8,
        0 => return None,
        kind if kind > KIND_LAST => return None,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(strings: &mut Vec<u8>, name: &str) -> u32 {
        let at = strings.len() as u32;
        strings.extend(name.as_bytes());
        strings.push(0);
        at
    }

    /// `int`, `struct inner { int a; }`, `struct outer { int x; struct { int y:3; int z:5; }; inner in; }`,
    /// and a function.
    fn small() -> Vec<u8> {
        let mut strings = vec![0];
        let mut types: Vec<u32> = Vec::new();
        let mut put = |words: &[u32]| types.extend(words);
        let names: Vec<u32> = [
            "int",
            "inner",
            "a",
            "outer",
            "x",
            "y",
            "z",
            "in",
            "bpf_iter_x",
        ]
        .iter()
        .map(|name| text(&mut strings, name))
        .collect();
        put(&[names[0], KIND_INT << 24, 4, 32]);
        put(&[names[1], KIND_STRUCT << 24 | 1, 4, names[2], 1, 0]);
        put(&[0, 1 << 31 | KIND_STRUCT << 24 | 2, 4]);
        put(&[names[5], 1, 3 << 24, names[6], 1, 5 << 24 | 3]);
        put(&[names[3], KIND_STRUCT << 24 | 3, 12]);
        put(&[names[4], 1, 0, 0, 3, 32, names[7], 2, 64]);
        put(&[names[8], KIND_FUNC << 24, 0]);
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        let length = types.len() as u32 * 4;
        for word in [24, 0, length, length, strings.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(types.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn fields_are_found_behind_anonymous_and_named_members() {
        let bytes = small();
        let btf = Btf::parse(&bytes, &["outer", "inner", "bpf_iter_x"]).unwrap();
        let field = |path| {
            btf.field("outer", path)
                .map(|field| (field.bit, field.bits))
        };
        assert_eq!(field("x"), Some((0, 32)));
        assert_eq!(field("y"), Some((32, 3)));
        assert_eq!(field("z"), Some((35, 5)));
        assert_eq!(field("in.a"), Some((64, 32)));
        assert_eq!(field("in.b"), None);
        assert_eq!(field("x.a"), None);
        assert_eq!(btf.field("nothing", "a"), None);
        assert_eq!(btf.function("bpf_iter_x"), Some(5));
        assert_eq!(btf.size("outer"), Some(12));
    }

    #[test]
    fn a_description_that_is_cut_or_changed_is_an_error_or_lacks_fields_and_never_a_panic() {
        let bytes = small();
        for cut in 0..bytes.len() {
            if let Ok(btf) = Btf::parse(&bytes[..cut], &["outer", "inner"]) {
                let _ = btf.field("outer", "in.a");
            }
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                if let Ok(btf) = Btf::parse(&changed, &["outer", "inner"]) {
                    for path in ["x", "y", "in.a", "z"] {
                        let _ = btf.field("outer", path);
                    }
                }
            }
        }
    }

    #[test]
    fn this_kernels_description_tells_where_a_sockets_port_is() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            portcullis_testkit::skip("this kernel has no BTF");
            return;
        };
        let btf = Btf::parse(&bytes, &["sock", "sock_common", "bpf_iter_tcp"]).unwrap();
        // Since 3.9 the ports follow the addresses and the hash (struct sock_common).
        let port = btf.field("sock", "__sk_common.skc_num").unwrap();
        assert_eq!((port.byte(), port.bits), (14, 16));
        assert!(btf.field("sock", "__sk_common.skc_reuseport").unwrap().bits == 1);
    }
}
