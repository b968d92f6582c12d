"""What Jupyter's server loads from the package: configuration and a save hook."""
