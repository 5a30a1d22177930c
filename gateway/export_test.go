package gateway

import "github.com/labstack/echo/v4"

// Registered returns what the router knows.
func (s *Server) Registered() []*echo.Route { return s.echo.Routes() }
