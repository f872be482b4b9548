//! The archive that a kernel takes as its first file system (cpio, "newc" format).
//!
//! Documentation/driver-api/early-userspace/buffer-format.rst: a header of 110 characters, every
//! number in eight hexadecimal digits, then name and contents, each padded to four bytes.

const HEADER: usize = 110;
const TRAILER: &str = "TRAILER!!!";

/// An archive in the making.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds an empty folder; its parents must have been added before.
    pub(super) fn folder(&mut self, name: &str) {
        self.entry(name, 0o40_755, &[]);
    }

    /// Adds a file (of less than 4 GiB).
    pub(super) fn file(&mut self, name: &str, contents: &[u8]) {
        self.entry(name, 0o100_755, contents);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        let inode = self.inode;
        self.inode += 1;
        let [links, size, name_size] = [1, contents.len(), name.len() + 1];
        // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name, checksum
        let header = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}\
             {0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
            0
        );
        debug_assert_eq!(header.len(), HEADER);
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_header_name_and_contents_in_multiples_of_four() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.file("bin/hello", b"hello");
        let bytes = archive.finish();

        let folder = std::str::from_utf8(&bytes[..HEADER]).unwrap();
        assert_eq!(&folder[..22], "07070100000000000041ed");
        assert_eq!(&bytes[HEADER..116], b"bin\0\0\0");
        let file = &bytes[116..];
        assert_eq!(&file[..22], b"07070100000001000081ed");
        assert_eq!(&file[54..62], b"00000005", "size of the contents");
        assert_eq!(&file[94..102], b"0000000a", "size of the name with its NUL");
        assert_eq!(&file[HEADER..HEADER + 10], b"bin/hello\0");
        assert_eq!(&file[HEADER + 10..HEADER + 18], b"hello\0\0\0");
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
