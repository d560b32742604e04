module labcluster.internal/runner

go 1.26
