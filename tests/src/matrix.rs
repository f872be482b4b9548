//! IKEv2 with daemons of others: what is tried, and the table of it in docs/interoperability.md.

/// Whose daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// charon-systemd and swanctl.
    StrongSwan,
    /// pluto and whack.
    Libreswan,
}

/// One of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// nhrpd.
    We,
    /// The other one.
    They,
}

/// What proves who one is, on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Certificates of one CA, ECDSA P-256.
    Certificates,
    /// A pre-shared key.
    SharedKey,
}

/// Of nhrpd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// `kernel`: xfrm.
    Kernel,
    /// `userspace`: ESP in UDP.
    Userspace,
}

/// An address translator before nhrpd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// None.
    Open,
    /// One.
    Translated,
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// This side deletes its SAs and says so.
    Deleted(Side),
    /// This side is killed; the other one notices, and a new one is met again.
    Died(Side),
}

/// One line of the table and one test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Of the test.
    pub name: &'static str,
    /// The other daemon.
    pub peer: Peer,
    /// Who sends IKE_SA_INIT.
    pub begins: Side,
    /// How both prove who they are.
    pub proof: Proof,
    /// Ours.
    pub plane: Plane,
    /// What is between them.
    pub path: Path,
    /// For IKE, as both write it.
    pub ike: &'static str,
    /// For ESP.
    pub esp: &'static str,
    /// Who renews the keys of both SAs.
    pub rekeys: Side,
    /// The end.
    pub end: End,
}

impl Cell {
    /// libreswan sends with new keys of ours before we have its answer (RFC 7296 §2.8: it may). Our
    /// userspace data plane keeps such packets for a moment; the kernel knows no SA for them.
    pub fn may_lose(&self) -> bool {
        self.peer == Peer::Libreswan && self.rekeys == Side::We && self.plane == Plane::Kernel
    }
}

/// Calls a macro with all cells: a line is `name: fields of Cell in their order;`.
#[macro_export]
macro_rules! interop_cells {
    ($use:ident) => {
        $use! {
            strongswan_we_begin_certificates_kernel:
                StrongSwan, We, Certificates, Kernel, Open,
                "aes256gcm16-prfsha384-ecp384", "aes256gcm16", They, Died(They);
            strongswan_we_begin_certificates_userspace:
                StrongSwan, We, Certificates, Userspace, Translated,
                "aes128gcm16-prfsha256-x25519", "aes256gcm16", We, Deleted(We);
            strongswan_we_begin_shared_key_kernel:
                StrongSwan, We, SharedKey, Kernel, Translated,
                "aes256-sha256-ecp256", "aes256-sha256", We, Deleted(They);
            strongswan_we_begin_shared_key_userspace:
                StrongSwan, We, SharedKey, Userspace, Open,
                "aes256gcm16-prfsha512-x25519", "aes128gcm16", They, Died(We);
            strongswan_they_begin_certificates_kernel:
                StrongSwan, They, Certificates, Kernel, Open,
                "aes256-sha384-ecp384", "chacha20poly1305", We, Died(We);
            strongswan_they_begin_certificates_userspace:
                StrongSwan, They, Certificates, Userspace, Open,
                "aes256gcm16-prfsha256-ecp256", "aes256gcm16", They, Deleted(They);
            strongswan_they_begin_shared_key_kernel:
                StrongSwan, They, SharedKey, Kernel, Open,
                "aes256gcm16-prfsha256-x25519", "aes256gcm16-x25519", They, Deleted(We);
            strongswan_they_begin_shared_key_userspace:
                StrongSwan, They, SharedKey, Userspace, Open,
                "aes256gcm16-prfsha384-ecp256", "aes256gcm16", We, Died(They);
            libreswan_we_begin_certificates_kernel:
                Libreswan, We, Certificates, Kernel, Open,
                "aes256gcm16-prfsha256-x25519", "aes256gcm16", We, Deleted(They);
            libreswan_we_begin_certificates_userspace:
                Libreswan, We, Certificates, Userspace, Open,
                "aes256gcm16-prfsha512-ecp384", "aes256gcm16", They, Died(They);
            libreswan_we_begin_shared_key_kernel:
                Libreswan, We, SharedKey, Kernel, Open,
                "aes256-sha256-ecp256", "aes256-sha256", They, Deleted(We);
            libreswan_we_begin_shared_key_userspace:
                Libreswan, We, SharedKey, Userspace, Open,
                "aes128gcm16-prfsha256-ecp256", "aes128gcm16", We, Died(We);
            libreswan_they_begin_certificates_kernel:
                Libreswan, They, Certificates, Kernel, Open,
                "aes256gcm16-prfsha256-ecp256", "aes256gcm16", They, Died(We);
            libreswan_they_begin_certificates_userspace:
                Libreswan, They, Certificates, Userspace, Open,
                "aes256-sha512-ecp256", "aes256gcm16", We, Deleted(We);
            libreswan_they_begin_shared_key_kernel:
                Libreswan, They, SharedKey, Kernel, Open,
                "aes256gcm16-prfsha384-ecp384", "aes128gcm16", We, Died(They);
            libreswan_they_begin_shared_key_userspace:
                Libreswan, They, SharedKey, Userspace, Open,
                "aes256gcm16-prfsha256-x25519", "aes256gcm16", They, Deleted(They);
        }
    };
}

macro_rules! table {
    ($($name:ident: $peer:ident, $begins:ident, $proof:ident, $plane:ident, $path:ident,
       $ike:literal, $esp:literal, $rekeys:ident, $end:ident($by:ident);)*) => {
        /// All of them.
        pub const CELLS: &[Cell] = &[$(Cell {
            name: stringify!($name),
            peer: Peer::$peer,
            begins: Side::$begins,
            proof: Proof::$proof,
            plane: Plane::$plane,
            path: Path::$path,
            ike: $ike,
            esp: $esp,
            rekeys: Side::$rekeys,
            end: End::$end(Side::$by),
        },)*];
    };
}
interop_cells!(table);

/// Begins and ends the table in the documentation.
pub const MARKS: [&str; 2] =
    ["<!-- matrix: made by tests/kernel --matrix -->\n", "<!-- /matrix -->"];

/// The table of the cells that held.
pub fn table(held: impl Fn(&Cell) -> bool) -> String {
    let head = "| peer | begins | proof | IKE | ESP | our data plane | new keys by | at the end |\n\
                |---|---|---|---|---|---|---|---|\n";
    CELLS.iter().filter(|cell| held(cell)).map(row).fold(head.to_owned(), |table, row| table + &row)
}

fn row(cell: &Cell) -> String {
    let Cell { ike, esp, .. } = cell;
    let peer = match cell.peer {
        Peer::StrongSwan => "strongSwan",
        Peer::Libreswan => "libreswan",
    };
    let who = |side| match side {
        Side::We => "we",
        Side::They => "peer",
    };
    let proof = match cell.proof {
        Proof::Certificates => "certificates",
        Proof::SharedKey => "pre-shared key",
    };
    let plane = match (cell.plane, cell.path) {
        (Plane::Kernel, Path::Open) => "kernel",
        (Plane::Kernel, Path::Translated) => "kernel, behind NAT",
        (Plane::Userspace, Path::Open) => "userspace",
        (Plane::Userspace, Path::Translated) => "userspace, behind NAT",
    };
    let (begins, rekeys) = (who(cell.begins), who(cell.rekeys));
    let rekeys = if cell.may_lose() { "we (some lost)" } else { rekeys };
    let end = match cell.end {
        End::Deleted(Side::We) => "we delete",
        End::Deleted(Side::They) => "peer deletes",
        End::Died(Side::We) => "nhrpd is killed, the peer notices; again up",
        End::Died(Side::They) => "the peer is killed, we notice; again up",
    };
    format!("| {peer} | {begins} | {proof} | `{ike}` | `{esp}` | {plane} | {rekeys} | {end} |\n")
}
