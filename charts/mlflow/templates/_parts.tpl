{{/* The database as MLflow is told of it; the password comes from a file. */}}
{{- define "mlflow.database" -}}
{{ printf "postgresql+psycopg2://mlflow@postgresql.%s.svc/mlflow?sslmode=verify-full&sslrootcert=/etc/labcluster/ca/ca.crt" .Release.Namespace }}
{{- end }}
