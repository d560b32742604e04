"""The controller: keeps the cluster equal to the directory and the Projects, and follows runs."""
