//! DMVPN networks in network namespaces.
