"""Tools for a person's own machine; never needed inside an image."""
