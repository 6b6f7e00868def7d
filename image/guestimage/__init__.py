"""Builds the guest images of Vivarium from Debian packages. See image/README.md."""
