"""Model families: one file per `config.model_type`, data only."""
