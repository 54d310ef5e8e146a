"""From metrics of runs to the tables, figures and the page that readers see. Reads files only."""
