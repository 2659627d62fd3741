//! Links, addresses and routes of network namespaces, for test beds and the demo.
