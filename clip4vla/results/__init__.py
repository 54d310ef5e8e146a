"""Tables, figures and the results page, made from the metrics files of runs."""
