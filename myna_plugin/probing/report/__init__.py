"""Results of probes as files, tables, figures and pages."""
