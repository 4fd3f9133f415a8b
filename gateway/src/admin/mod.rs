//! The operators' side: metrics, health, ledger, a page that shows them.
