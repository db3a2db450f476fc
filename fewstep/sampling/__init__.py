"""From starting noise to pictures, at the timesteps that the artefact was trained for."""
