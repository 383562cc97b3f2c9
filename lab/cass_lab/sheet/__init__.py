"""The contact sheet of a data set: one HTML file."""
