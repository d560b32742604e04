"""Labels and annotations that our Kubernetes objects carry."""

PROJECT = "labcluster.internal/project"
USER = "labcluster.internal/user"
RUN = "labcluster.internal/run"
KIND = "labcluster.internal/kind"
QUEUE = "kueue.x-k8s.io/queue-name"
SUBMITTED = "labcluster.internal/submitted-at"
